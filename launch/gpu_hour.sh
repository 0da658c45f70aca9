#!/usr/bin/env bash
# Runs launch/gpu_hour.py on a machine with a GPU and without a network.
#
#   launch/gpu_hour.sh pack CORPUS TASKS   # here: fills gpu_hour/ (under 60 MiB)
#   launch/gpu_hour.sh run [FLAGS]         # there: one slice of ten minutes
#
# `pack` compresses a prepared corpus and GLUE tasks, and downloads wheels of what
# the other machine lacks (WHEELS, for Python 3.12). About 45 M tokens fit; with
# more, it says so and ends with 2. `run` installs the wheels beside the machine's
# own Python, which has jax, flax, optax, orbax and torch for its GPU. Repeat `run`
# until it ends with 0; 75 means that the slice is over. GPU_HOUR names the folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${GPU_HOUR:-gpu_hour}
limit_mib=60
WHEELS=${WHEELS:-ftfy wcwidth grain array_record importlib_resources \
  ml_collections pydantic pydantic_core annotated_types typing_inspection \
  tensorboardX}

pack() {
  rm -rf "$folder"
  mkdir -p "$folder/wheels"
  # Links give the folders the same names on both machines.
  ln -s "$(realpath "$1")" "$folder/corpus"
  ln -s "$(realpath "$2")" "$folder/tasks"
  tar -C "$folder" --dereference --create --xz --file "$folder/input.tar.xz" \
    corpus tasks
  rm "$folder/corpus" "$folder/tasks"
  local -a names
  read -ra names <<< "$WHEELS"
  python3 -m pip download --quiet --no-deps --only-binary=:all: \
    --python-version 3.12 --implementation cp --dest "$folder/wheels" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 "${names[@]}"
  du -sh "$folder"
  if (($(du -sm "$folder" | cut -f1) > limit_mib)); then
    echo "error: $folder exceeds $limit_mib MiB; prepare fewer books" >&2
    exit 2
  fi
}

run() {
  if [[ -e $folder/input.tar.xz && ! -d $folder/corpus ]]; then
    rm -rf "$folder/unpacked"
    mkdir "$folder/unpacked"
    python3 -m tarfile --extract "$folder/input.tar.xz" "$folder/unpacked"
    mv "$folder/unpacked/tasks" "$folder/unpacked/corpus" "$folder/"
  fi
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
  --help) sed -n '2,11s/^# \{0,1\}//p' "$0" ;;
  *)
    echo 'error: launch/gpu_hour.sh pack CORPUS TASKS, or run [FLAGS]' >&2
    exit 2
    ;;
esac
