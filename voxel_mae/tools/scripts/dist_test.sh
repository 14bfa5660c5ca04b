#!/usr/bin/env bash
# From tools/ as from the package's root: see ../../scripts/dist_test.sh.
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/dist_test.sh" "$@"
