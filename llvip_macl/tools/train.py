"""Train: `python tools/train.py configs/llvip/stage1_llvip_pretrain.py --work-dir work_dirs/stage1`."""

import sys

from llvip_macl.runtime.train_command import main

if __name__ == "__main__":
    sys.exit(main())
