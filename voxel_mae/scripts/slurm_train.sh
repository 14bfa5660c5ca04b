#!/usr/bin/env bash
# Train under Slurm: one task a GPU.
#
#   bash scripts/slurm_train.sh PARTITION JOB GPUS --cfg_file cfgs/custom_models/<finetune>.yaml [more flags]
#
# GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS, PROGRAM (train.py) and PYTHON may be set.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
USAGE="usage: bash scripts/slurm_train.sh PARTITION JOB GPUS --cfg_file FILE [more flags]"
PARTITION="${1:?$USAGE}"
JOB="${2:?$USAGE}"
GPUS="${3:?$USAGE}"
shift 3
PER_NODE="${GPUS_PER_NODE:-8}"
PER_NODE="$((GPUS < PER_NODE ? GPUS : PER_NODE))"
# shellcheck disable=SC2086 -- SRUN_ARGS holds several words
exec srun --partition="$PARTITION" --job-name="$JOB" --gres="gpu:$PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" "$HERE/../tools/${PROGRAM:-train.py}" --launcher slurm "$@"
