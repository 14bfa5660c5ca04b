#!/usr/bin/env python
"""Entry script: `python train_eval_rq.py --config exp/split1_ALL.yaml`. See README.md, or --help."""

import sys

from pillars_rq.rq_command import main

if __name__ == "__main__":
    sys.exit(main())
