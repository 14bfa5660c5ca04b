#!/usr/bin/env bash
# Train on several GPUs of this machine (or in one process on CPU), through torchrun.
#
#   bash scripts/dist_train.sh GPUS --cfg_file cfgs/custom_models/<finetune>.yaml [more flags of tools/train.py]
#
# PROGRAM=train_rmae_cmae_phase1.py pretrains instead. PYTHON chooses the interpreter.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
GPUS="${1:?usage: bash scripts/dist_train.sh GPUS --cfg_file FILE [more flags]}"
shift
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc-per-node "$GPUS" -- \
    "$HERE/../tools/${PROGRAM:-train.py}" --launcher pytorch "$@"
