#!/usr/bin/env python
"""Entry script: Training of a detector, from scratch or from pretrained weights. See README.md, or --help."""

import sys

from voxel_mae.commands import main

if __name__ == "__main__":
    sys.exit(main("train.py"))
