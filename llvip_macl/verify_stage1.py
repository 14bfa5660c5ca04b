"""Build a config and send synthetic gradients through it: exit code 1 when a module does not learn."""

import sys

from llvip_macl.self_checks import verify_stage1

if __name__ == "__main__":
    sys.exit(verify_stage1())
