#!/usr/bin/env bash
#SBATCH --job-name=gpt1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=TERM@120
# Pretrains on a Slurm cluster of GPUs, with one task for each GPU:
#
#   sbatch launch/slurm.sh --config=configs/pretrain.py \
#     --workdir=/shared/runs/gpt1 --config.data.path=/shared/data/books
#
# Submit it from a checkout on a shared disk whose .venv has gpt1_jax[cuda].
# Flags of sbatch override the lines above: sbatch --nodes=4 --partition=gpu
# launch/slurm.sh ... . jax.distributed reads hosts and GPUs from Slurm's
# variables. Every task must see all GPUs of its node, so do not use
# --gpus-per-task.
#
# When it is preempted, and 120 seconds before its time limit, Slurm sends SIGTERM
# to the tasks: they finish the update, save and exit with code 75. The job is
# then requeued under its number and resumes.
set -euo pipefail

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo 'error: submit this script: sbatch launch/slurm.sh --workdir=... --config...' >&2
  exit 1
fi
if (($# == 0)); then
  echo 'error: no options for gpt1_jax.pretrain; see launch/slurm.sh' >&2
  exit 1
fi

# Slurm runs a copy of this file; the checkout is where sbatch was called.
cd "$SLURM_SUBMIT_DIR"
python=${PYTHON:-.venv/bin/python}
if [[ ! -x $python ]] && ! command -v "$python" > /dev/null; then
  echo "error: $PWD has no $python: run make, or set PYTHON" >&2
  exit 1
fi

echo "== job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}," \
  "commit $(git describe --always --abbrev=12 --dirty=+ || echo unknown)"
code=0
srun --label --kill-on-bad-exit=0 --wait=300 "$python" -m gpt1_jax.pretrain \
  --multihost=on "$@" || code=$?
if ((code == 75)); then
  echo "== stopped and saved: requeueing job $SLURM_JOB_ID"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
