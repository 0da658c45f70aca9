#!/usr/bin/env bash
# Runs gpt1_jax on a Cloud TPU slice. The functions worker_* run on the slice's
# machines, all others on yours.
set -euo pipefail

usage() {
  cat << 'END'
Runs gpt1_jax on a Cloud TPU slice through gcloud. See docs/tpu.md.

  launch/tpu_vm.sh STEP --name=NAME --zone=ZONE [--OPTION=VALUE ...] [-- ...]

  create   requests a slice and waits until it is ready  (billing starts)
  setup    copies the current commit to every worker and installs it there
  run      starts the command after -- on every worker and returns
  status   prints the state of the slice, and of the command on each worker
  logs     prints the last lines of each worker's log
  stop     stops the command on every worker; keeps the slice
  delete   deletes the slice  (billing ends)

  --dry-run           print the commands without running them
  --ssh-flag=FLAG     extra flag for gcloud's ssh and scp; repeatable
  --type=TYPE         create: v4-32, v5litepod-16, v5p-8, v6e-16, ...
  --spot              create: use cheaper machines that may be preempted
  --timeout=SECONDS   create: give up waiting for capacity after this time
  --create-flag=FLAG  create: extra flag for gcloud's create; repeatable
  --ignore-changes    setup, run: install the commit without uncommitted changes
  --retry[=TIMES]     run: create and set up the slice (with the options above),
                      watch the run, start over when preempted or stopped with
                      exit code 75 (default: 100)
  --delete-after      run --retry: delete the slice at the end
  --poll=SECONDS      create, run --retry: polling interval (default: 30)
  --lines=N           logs: number of lines (default: 100)
  --worker=N          logs: only this worker (default: all)
  --follow            logs: keep printing; needs --worker
END
}

name='' zone='' type='' spot='' timeout='' image='' retry=0 delete_after=''
dry_run='' ignore_changes='' poll=30 lines=100 worker=all follow=''
words=() ssh_flags=() create_flags=()
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
retryable=1 # exit code of `again`; 75 while run --retry watches

say() { echo "$*" >&2; }
die() { say "error: $*" && exit 1; }
again() { say "error: $*" && exit "$retryable"; } # may succeed the next time
pause() { [[ $dry_run ]] || sleep "$poll"; }
quoted() { printf -v REPLY ' %q' "$@" && echo "${REPLY:1}"; }

try() { # runs a command, or prints it (--dry-run)
  if [[ $dry_run ]]; then quoted "$@" >&3; else "$@" < /dev/null; fi
}

tpus() { # tpus queued-resources|tpu-vm VERB FLAG...
  try gcloud compute tpus "$1" "$2" "$name" --zone="$zone" "${@:3}"
}

at() { # at WORKER|all STEP WORD...: runs worker_STEP there
  tpus tpu-vm ssh --worker="$1" --quiet "${ssh_flags[@]}" \
    --command="bash tpu_vm.sh worker $(quoted "${@:2}")"
}

look() { # sets $state to ready, waiting or gone, and $detail to Cloud's message
  local kind fields=state.state,state.failedData.error.message
  for kind in queued-resources tpu-vm; do
    if detail=$(tpus $kind describe "--format=value($fields)" 2>&1); then
      case $detail in
        *FAIL* | *SUSPEND* | *DELETING* | *PREEMPT* | *TERMINAT* | *STOPP*)
          state=gone ;;
        '' | *ACTIVE* | *READY*) state=ready ;; # empty: --dry-run
        *) state=waiting ;;
      esac
    else
      [[ ${detail,,} =~ not.found ]] || again "$name may be billed: $detail"
      state=gone detail='not found'
    fi
    [[ $state == ready ]] || return 0
    fields=state
  done
}

await() { # returns when the slice is ready or gone
  while look && [[ $state == waiting ]]; do say "$name: $detail" && pause; done
}

remove() { # remove PREFIX: deletes the slice; PREFIX starts the error message
  local out
  out=$(tpus queued-resources delete --quiet --force 2>&1) ||
    [[ ${out,,} =~ not.found ]] ||
    die "$1$name may still exist and be billed: $out"
}

create() {
  local out image flags=(--node-id="$name" --accelerator-type="$type")
  case $type in # https://cloud.google.com/tpu/docs/runtimes
    v[234]-*) image=tpu-ubuntu2204-base ;;
    v5litepod-*) image=v2-alpha-tpuv5-lite ;;
    v5p-*) image=v2-alpha-tpuv5 ;;
    v6e-*) image=v2-alpha-tpuv6e ;;
    *) die "--type=$type: give v2-N, v3-N, v4-N, v5litepod-N (which is v5e)," \
      'v5p-N or v6e-N; for TPU7x see launch/gke_jobset.yaml' ;;
  esac
  flags+=(--runtime-version="$image" ${spot:+--spot}
    ${timeout:+--valid-until-duration="${timeout}s"} "${create_flags[@]}")
  say "${dry_run:+would be }requesting $type in $zone; billed until: tpu_vm.sh delete"
  if out=$(tpus queued-resources create "${flags[@]}" 2>&1); then
    await
    [[ $state != ready ]] || return 0
    out=$detail
  fi
  out="could not create $name: $out"
  [[ ! ${out,,} =~ already.exists ]] || die "$out; see status"
  remove "$out; "
  [[ ! ${out,,} =~ quota|denied ]] || die "$out"
  again "$out"
}

setup() {
  local archive=${TMPDIR:-/tmp}/gpt1_jax-$commit.tar.gz
  say "${dry_run:+would be }installing commit $commit on every worker; takes a few minutes"
  try git -C "$root" archive --output="$archive" "$commit"
  try gcloud compute tpus tpu-vm scp "$archive" "$root/launch/tpu_vm.sh" \
    "$name:" --zone="$zone" --worker=all --quiet "${ssh_flags[@]}" ||
    again "commit $commit was not copied to every worker"
  at all setup "$commit" || again "commit $commit is not on every worker"
  try rm "$archive"
}

start() { # on all workers or on none
  local out
  out=$(at all status) || again 'no answer from every worker, or no setup'
  if [[ $out == *': running'* ]] && grep -qv ': running' <<< "$out"; then
    at all stop # one worker was restarted and lost the command
  fi
  out=$(at all start "$commit" "${words[@]}" 2>&1) && return
  [[ $out != *'another command'* ]] || die "$out"
  at all stop || say 'stop failed as well, see status'
  again "the command did not start on every worker: $out"
}

follow() { # returns when the command has succeeded on every worker
  local out bad=0
  while look; do
    [[ $state != gone ]] || again "$name was preempted ($detail)"
    out=$(at all status) || out='no answer from every worker'
    case $out in
      *': lost'* | *': none'*) at all stop; again 'a worker was restarted' ;;
      *': exit 75'*) at all stop; again 'the run was stopped and has saved' ;;
      'no answer'* | *': exit '[1-9]*) # Cloud may report it late
        ((++bad < 4)) || { at all stop; die "$out"; } ;;
      *': running'*) bad=0 ;;
      *) return ;;
    esac
    pause
  done
}

run() {
  local code times=0
  ((${#words[@]})) || die 'run needs a command: run ... -- python -m ...'
  ((retry)) || [[ ! $delete_after ]] || die '--delete-after needs --retry'
  ((retry)) || { start && return; }
  [[ " ${words[*]}" == *' --workdir=gs://'* ]] ||
    die 'run --retry needs --workdir=gs://...: preemption deletes the disks'
  retryable=75
  while true; do
    code=0
    (
      await
      if [[ $dry_run || $state == gone ]]; then remove '' && create; fi
      setup && start && follow
    ) || code=$?
    ((code == 75 && times < retry)) || break
    say "starting over ($((++times)) of $retry)" && pause
  done
  if [[ $delete_after ]]; then delete; else
    say "$name ${dry_run:+would stay and }may be billed: delete"
  fi
  ((!code)) || die "the run has failed after $times retries, see above"
}

status() {
  look
  [[ $detail != 'not found' ]] || die "nothing is named $name"
  [[ $dry_run ]] || say "$name: $detail"
  [[ $state != ready ]] || at all status
}

logs() { at "$worker" log "$lines" ${follow:+--follow}; }
stop() { at all stop; }
delete() {
  local is=is
  [[ ! $dry_run ]] || is='would be'
  remove '' && say "nothing $is named $name now"
}

# On a worker, code is in ~/gpt1_jax/COMMIT and the command's files are in
# ~/gpt1_jax/job. The command's processes hold job/lock; while it is locked,
# job/group is their process group.

worker_setup() { # worker_setup COMMIT
  mkdir -p ~/gpt1_jax/job ~/gpt1_jax/"$1" && cd ~/gpt1_jax/"$1"
  [[ ! -e .ready ]] || return 0
  tar -xzf ~/"gpt1_jax-$1.tar.gz" && rm ~/"gpt1_jax-$1.tar.gz"
  # The images have Python 3.10; uv installs a newer one.
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --python '>=3.11' .venv
  python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
  .venv/bin/python -c 'import gpt1_jax.pretrain'
  touch .ready
}

worker_start() { # worker_start COMMIT WORD...: starts it in the background
  [[ -e ../$1/.ready ]] || die "worker $worker: commit $1 is not set up"
  exec 9>> lock
  if ! flock --nonblock 9; then
    [[ $(< words) == "$(quoted "$@")" ]] ||
      die "worker $worker: another command is running, stop it first"
    return 0
  fi
  rm -f code && quoted "$@" > words
  echo "== $(date -u +%FT%TZ) worker $worker: $(< words)" >> log
  cd "../$1"
  export PATH=$PWD/.venv/bin:$PATH PYTHONUNBUFFERED=1
  # With the trap, `stop` ends the command but not this shell, which then writes
  # the exit code.
  setsid bash -c 'trap : TERM; "$@"; echo $? > ../job/code' - "${@:2}" \
    < /dev/null >> ../job/log 2>&1 &
  echo $! > ../job/group
}

worker_status() { # prints "worker N: running|exit CODE|lost|none, COMMIT: ..."
  local word=none
  [[ ! -e words ]] || word=lost # the machine was restarted
  [[ ! -e code ]] || word="exit $(< code)"
  flock --nonblock lock true || word=running
  echo "worker $worker: $word, $(cut -c -12 words 2> /dev/null):" \
    "$(tail -n1 log 2> /dev/null | tr '\r' '\n' | tail -n1 | cut -c -200)"
}

worker_log() { tail -n "$@" log | sed -u "s/^/[worker $worker] /"; }

worker_stop() { # sends SIGTERM, and SIGKILL after two minutes: it saves
  flock --nonblock lock true || kill -TERM -- "-$(< group)"
  flock --timeout 120 lock true || kill -KILL -- "-$(< group)"
}

step=${1:-}
case $step in
  worker)
    worker=${TPU_WORKER_ID:-0}
    [[ ! $HOSTNAME =~ -w-([0-9]+)$ ]] || worker=${BASH_REMATCH[1]}
    [[ $2 == setup ]] || cd ~/gpt1_jax/job
    "worker_$2" "${@:3}" ;;
  create | setup | run | status | logs | stop | delete)
    while shift && (($#)); do
      key=${1%%=*} key=${key#--} key=${key//-/_}
      case $1 in
        --) words=("${@:2}") && break ;;
        --help) usage && exit ;;
        --ssh-flag=?*) ssh_flags+=("${1#*=}") ;;
        --create-flag=?*) create_flags+=("${1#*=}") ;;
        --retry) retry=100 ;;
        --spot | --dry-run | --ignore-changes | --delete-after | --follow)
          printf -v "$key" yes ;;
        --name=[a-z]* | --zone=?* | --type=?* | --worker=[0-9]* | \
          --retry=[1-9]* | --timeout=[1-9]* | --poll=[0-9]* | --lines=[0-9]*)
          printf -v "$key" %s "${1#*=}" ;;
        *) die "'$1': unknown option or wrong value; see --help" ;;
      esac
    done
    [[ $name && $zone ]] || die "$step needs --name=... and --zone=..."
    [[ $dry_run ]] || command -v gcloud > /dev/null || die 'gcloud is missing'
    commit=$(git -C "$root" rev-parse --short=12 'HEAD^{commit}')
    [[ $ignore_changes || $step != setup && $step != run ||
      ! $(git -C "$root" status --porcelain) ]] ||
      die 'the tree has changes, and only commits are installed: commit them,' \
        'or install the last commit with --ignore-changes'
    exec 3>&1
    trap 'die "interrupted; started work keeps running, see status"' INT TERM
    "$step" ;;
  '' | --help) usage ;;
  *) die "unknown step '$step'; see --help" ;;
esac
