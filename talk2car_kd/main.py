#!/usr/bin/env python
"""Entry script: `python main.py --stage all|teacher|1|2|test|export|ablate`. See README.md, or --help."""

import sys

from talk2car_kd.pipeline import main

if __name__ == "__main__":
    sys.exit(main())
