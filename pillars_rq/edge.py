#!/usr/bin/env python
"""Entry script: `python edge.py --pretrained BASE --rq_ckpt FINAL --points FOLDER --n 2 --k 256`. See --help."""

import sys

from pillars_rq.wire.commands import edge_main

if __name__ == "__main__":
    sys.exit(edge_main())
