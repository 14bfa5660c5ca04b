#!/usr/bin/env python
"""Entry script: `python server.py --pretrained BASE --rq_ckpt FINAL`. See README.md, or --help."""

import sys

from pillars_rq.wire.commands import server_main

if __name__ == "__main__":
    sys.exit(server_main())
