#!/usr/bin/env python
"""Entry script: `python inspect_data.py ROOT` checks a BatVision root. See README.md, or --help."""

import sys

from batvision_kd.data.inspect import main

if __name__ == "__main__":
    sys.exit(main())
