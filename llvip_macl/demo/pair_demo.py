"""Detections on your own pairs: two images or two folders in, pictures and JSON out. See --help."""

import sys

from llvip_macl.pair_command import main

if __name__ == "__main__":
    sys.exit(main())
