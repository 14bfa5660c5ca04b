#!/usr/bin/env python
"""Entry script: `python evaluate.py --checkpoint checkpoints/<exp>/best_model.pth`. See README.md, or --help."""

import sys

from batvision_kd.evaluate_command import main

if __name__ == "__main__":
    sys.exit(main())
