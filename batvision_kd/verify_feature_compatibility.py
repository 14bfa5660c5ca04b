#!/usr/bin/env python
"""Entry script: do teacher and student return maps of one shape? The exit status tells. See --help."""

import sys

from batvision_kd.compatibility import main

if __name__ == "__main__":
    sys.exit(main())
