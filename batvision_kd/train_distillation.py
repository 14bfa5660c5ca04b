#!/usr/bin/env python
"""Entry script: `python train_distillation.py --dataset batvisionv2`. See README.md, or --help."""

import sys

from batvision_kd.command import main

if __name__ == "__main__":
    sys.exit(main("distillation"))
