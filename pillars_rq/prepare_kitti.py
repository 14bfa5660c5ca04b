#!/usr/bin/env python
"""Entry script: `python prepare_kitti.py --data_root DIR [--prefix kitti]`. See README.md, or --help."""

import sys

from pillars_rq.kitti.prepare import main

if __name__ == "__main__":
    sys.exit(main())
