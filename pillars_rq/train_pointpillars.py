#!/usr/bin/env python
"""Train a base detector: `python train_pointpillars.py [--config FILE] [--set a.b=c] [--run NAME]`. See README.md."""

import sys

from pillars_rq.base_training import main

if __name__ == "__main__":
    sys.exit(main())
