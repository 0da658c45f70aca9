#!/usr/bin/env bash
# Runs launch/gpu_hour.py on a machine with a GPU and without a network.
#
#   launch/gpu_hour.sh pack CORPUS TASKS   # here: fills gpu_hour/ (under 60 MiB)
#   launch/gpu_hour.sh run [FLAGS]         # there: one slice of ten minutes
#
# `pack` copies a prepared corpus and GLUE tasks, and downloads wheels of what the
# other machine lacks (WHEELS, for Python 3.12). `run` installs them beside the
# machine's own Python, which has jax, flax, optax, orbax and torch for its GPU.
# Repeat `run` until it ends with 0; 75 means that the slice is over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=gpu_hour
WHEELS=${WHEELS:-ftfy wcwidth grain array_record importlib_resources \
  ml_collections pydantic pydantic_core annotated_types typing_inspection \
  tensorboardX}

pack() {
  rm -rf "$folder"
  mkdir -p "$folder/wheels"
  cp -r "$1" "$folder/corpus"
  cp -r "$2" "$folder/tasks"
  local -a names
  read -ra names <<< "$WHEELS"
  python3 -m pip download --quiet --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp --dest "$folder/wheels" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 "${names[@]}"
  du -sh "$folder"
}

run() {
  if [[ -d $folder/wheels && ! -d $folder/site ]]; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile \
      --target "$folder/site" "$folder"/wheels/*.whl
  fi
  # The machine's own packages come first: they know its GPU.
  PYTHONPATH=$PWD:$(python3 -c 'import site; print(site.getsitepackages()[0])'):$PWD/$folder/site \
    XLA_PYTHON_CLIENT_PREALLOCATE=false \
    python3 launch/gpu_hour.py --corpus="$folder/corpus" \
    --tasks="$folder/tasks" "$@"
}

case ${1:-} in
  pack) pack "${2:?CORPUS is missing}" "${3:?TASKS is missing}" ;;
  run) run "${@:2}" ;;
  *)
    echo 'error: launch/gpu_hour.sh pack CORPUS TASKS, or run [FLAGS]' >&2
    exit 2
    ;;
esac
