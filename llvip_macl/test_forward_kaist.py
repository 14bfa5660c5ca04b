"""A script, not a test: one KAIST pair through a training step and a prediction of stage 2 (batch of one)."""

import sys

from llvip_macl.self_checks import forward_kaist

if __name__ == "__main__":
    sys.exit(forward_kaist())
