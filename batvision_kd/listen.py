#!/usr/bin/env python
"""Entry script: `python listen.py --checkpoint checkpoints/<exp>/best_model.pth echo.wav`. See README.md, or --help."""

import sys

from batvision_kd.listening import main

if __name__ == "__main__":
    sys.exit(main())
