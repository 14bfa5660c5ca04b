#!/usr/bin/env bash
# From tools/ as from the package's root: see ../../scripts/slurm_train.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/slurm_train.sh" "$@"
