"""Does the gradient of a single sample reach every module? Exit code 1 when not."""

import sys

from llvip_macl.self_checks import grad_flow

if __name__ == "__main__":
    sys.exit(grad_flow())
