"""The whole method in minutes, or one cloud in seconds: see `python demo.py --help`."""

import sys

from voxel_mae.demo_command import main

if __name__ == "__main__":
    sys.exit(main())
