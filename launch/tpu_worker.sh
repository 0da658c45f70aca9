#!/usr/bin/env bash
# The half of tpu_vm.sh that runs on each worker of a slice. `setup` puts it at
# ~/gpt1_jax/tpu_worker.sh; code lies in ~/gpt1_jax/COMMIT, a job's log, process
# group and exit code in ~/gpt1_jax/jobs/JOB. A job holds the lock in its folder
# as long as any process of it lives, so a recorded process group is never
# somebody else's.
set -euo pipefail

home=$HOME/gpt1_jax
self=$home/tpu_worker.sh
worker=${TPU_WORKER_ID:-0}
[[ $HOSTNAME =~ -w-([0-9]+)$ ]] && worker=${BASH_REMATCH[1]}

die() {
  echo "error: worker $worker: $*" >&2
  exit 1
}

# setup COMMIT: makes the environment of code unpacked in ~/gpt1_jax/COMMIT.
setup() {
  cd "$home/$1"
  if [[ ! -e .ready ]]; then
    # The images carry Python 3.10; uv fetches a newer one where none is.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --python '>=3.11' .venv
    python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
    .venv/bin/python -c 'import gpt1_jax.pretrain'
    touch .ready
  fi
  cp launch/tpu_worker.sh "$self.tmp"
  mv "$self.tmp" "$self"
  echo "worker $worker: commit $1 is ready"
}

# start COMMIT JOB COMMAND...: starts it detached, in the code's folder.
start() {
  local commit=$1 job=$2
  shift 2
  [[ -e $home/$commit/.ready ]] ||
    die "commit $commit is not set up here: run setup first"
  mkdir -p "$home/jobs/$job"
  cd "$home/jobs/$job"
  if alive; then
    [[ $(< words) == "$commit ${*@Q}" ]] ||
      die "another $job is running (commit $(cut -c -12 words)): stop it first"
    echo "worker $worker: $job was started before and is running"
    return
  fi
  rm -f code
  echo "$commit ${*@Q}" > words
  setsid flock --timeout 10 lock \
    bash "$self" execute "$commit" "$job" "$@" < /dev/null >> log 2>&1 &
  echo $! > group
  local tries
  for ((tries = 0; tries < 50; tries++)); do
    if alive || [[ -e code ]]; then
      echo "worker $worker: $job is started, commit $commit"
      return
    fi
    sleep 0.1
  done
  die "$job did not start: see its log"
}

# execute COMMIT JOB COMMAND...: what `start` leaves running.
execute() {
  local commit=$1 job=$2 code=0
  shift 2
  trap : TERM # the command gets it too; its exit code is still recorded
  cd "$home/$commit"
  export PATH=$PWD/.venv/bin:$PATH PYTHONUNBUFFERED=1
  echo "== $(date -u +%FT%TZ) worker $worker, commit $commit: ${*@Q}"
  "$@" || code=$?
  echo "== $(date -u +%FT%TZ) worker $worker, exit code $code"
  echo "$code" > "$home/jobs/$job/code.tmp"
  mv "$home/jobs/$job/code.tmp" "$home/jobs/$job/code"
}

# In a job's folder: does any process of it live?
alive() {
  [[ -e lock ]] && ! flock --nonblock lock true
}

# status JOB: one line, "worker N: JOB: running | exit CODE | lost | none ...".
status() {
  local job=$1 word
  if ! cd "$home/jobs/$job" 2> /dev/null; then
    echo "worker $worker: $job: none"
    return
  fi
  if alive; then
    word=running
  elif [[ -e code ]]; then
    word="exit $(< code)"
  else
    word=lost # the machine was restarted
  fi
  echo "worker $worker: $job: $word, commit $(cut -c -12 words):" \
    "$(tail -n 1 log | tr '\r' '\n' | tail -n 1 | cut -c -200)"
}

# log JOB LINES [follow]
log() {
  cd "$home/jobs/$1" 2> /dev/null || die "no $1 was started here"
  tail -n "$2" ${3:+--follow=name} log | sed -u "s/^/[worker $worker] /"
}

# stop JOB: ends its process group, kindly, after 30 seconds without mercy.
stop() {
  local tries
  if ! cd "$home/jobs/$1" 2> /dev/null; then
    echo "worker $worker: $1: none"
    return
  fi
  for ((tries = 0; tries < 300; tries++)); do
    alive || break
    ((tries > 0)) || kill -TERM -- "-$(< group)" || true
    sleep 0.1
  done
  if alive; then
    kill -KILL -- "-$(< group)" || true
    sleep 1
    alive && die "$1 does not end: process group $(< group)"
    echo 137 > code
  fi
  echo "worker $worker: $1 does not run"
}

# prepare BOOKS DATA FLAG...: books from a bucket, prepared, to a bucket.
# meta.json goes last: data without it is read by nobody.
prepare() {
  local books=$1 data=$2 work=$home/prepare
  shift 2
  if gcloud storage ls "$data/meta.json" > /dev/null 2>&1; then
    echo "$data: finished before, nothing to do"
    return
  fi
  mkdir -p "$work/books"
  gcloud storage rsync --recursive --delete-unmatched-destination-objects \
    "$books" "$work/books"
  rm -rf "$work/data"
  python -m gpt1_jax.prepare --input="$work/books" --output="$work/data" "$@"
  gcloud storage rsync --recursive --exclude='meta\.json$' "$work/data" "$data"
  gcloud storage cp "$work/data/meta.json" "$data/meta.json"
  echo "$data: done"
}

case ${1:-} in
  setup | start | execute | status | log | stop | prepare) "$@" ;;
  *) die "unknown step '${1:-}'" ;;
esac
