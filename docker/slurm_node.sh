#!/usr/bin/env bash
# Start a SLURM of one node in this container, run a command, stop it again.
set -euo pipefail
cluster=$(dirname "$0")/cluster.py
folder=$(dirname "${SLURM_CONF:-/tmp/slurm/slurm.conf}")
python "$cluster" up "$folder"
trap 'python "$cluster" down "$folder"' EXIT
trap 'exit 143' TERM INT
"$@" &
wait $!
