#!/usr/bin/env python
"""Entry script: Judging checkpoints. See README.md, or --help."""

import sys

from voxel_mae.commands import main

if __name__ == "__main__":
    sys.exit(main("test.py"))
