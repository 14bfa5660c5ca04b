#!/usr/bin/env python
"""Entry script: `python app.py [--port 7860]`, a page to type a command over an image. See README.md, or --help."""

import sys

from talk2car_kd.page import main

if __name__ == "__main__":
    sys.exit(main())
