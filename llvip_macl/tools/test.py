"""Test: `python tools/test.py configs/llvip/stage1_llvip_pretrain.py work_dirs/stage1/best.pth`."""

import sys

from llvip_macl.runtime.test_command import main

if __name__ == "__main__":
    sys.exit(main())
