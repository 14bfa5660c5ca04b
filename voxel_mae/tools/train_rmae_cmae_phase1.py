#!/usr/bin/env python
"""Entry script: Masked pretraining. See README.md, or --help."""

import sys

from voxel_mae.commands import main

if __name__ == "__main__":
    sys.exit(main("train_rmae_cmae_phase1.py"))
