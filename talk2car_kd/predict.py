#!/usr/bin/env python
"""Entry script: `python predict.py --image FILE --command "stop behind the red car"`. See README.md, or --help."""

import sys

from talk2car_kd.single import main

if __name__ == "__main__":
    sys.exit(main())
