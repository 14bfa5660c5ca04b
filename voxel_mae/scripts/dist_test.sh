#!/usr/bin/env bash
# Judge checkpoints on several GPUs of this machine, through torchrun.
#
#   bash scripts/dist_test.sh GPUS --cfg_file cfgs/custom_models/<finetune>.yaml [more flags of tools/test.py]
set -euo pipefail

PROGRAM=test.py exec bash "$(dirname "${BASH_SOURCE[0]}")/dist_train.sh" "$@"
