"""Stage 1, stage 2, test and pictures on drawn street scenes, in minutes: see `python demo.py --help`."""

import sys

from llvip_macl.demo_command import main

if __name__ == "__main__":
    sys.exit(main())
