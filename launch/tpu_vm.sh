#!/usr/bin/env bash
# Runs gpt1_jax on a Cloud TPU slice, from nothing and back to nothing: --help.
# What runs on the slice's workers is in tpu_worker.sh.
set -euo pipefail

usage() {
  cat << 'END'
Runs gpt1_jax on a Cloud TPU slice, through gcloud. docs/tpu.md is the tour.

  launch/tpu_vm.sh STEP --name=NAME --zone=ZONE [--OPTION=VALUE ...] [-- ...]

Steps, in the order you need them:
  create   asks for a slice and waits until it is yours  (from here on it costs)
  setup    ships the commit you are on to every worker and installs it there
  prepare  books in a bucket -> token shards in a bucket, on worker 0
  run      starts the command after -- on every worker, and leaves it running
  logs     the last lines of every worker's log
  status   the slice's state, and what each worker does
  stop     ends the run on every worker; the slice stays, and costs
  delete   gives the slice back                              (it costs no more)

Examples:
  launch/tpu_vm.sh create --name=gpt1 --zone=us-west4-a --type=v5litepod-16
  launch/tpu_vm.sh setup --name=gpt1 --zone=us-west4-a
  launch/tpu_vm.sh prepare --name=gpt1 --zone=us-west4-a \
      --books=gs://BUCKET/books --data=gs://BUCKET/data/books -- --merges=40000
  launch/tpu_vm.sh run --name=gpt1 --zone=us-west4-a -- \
      python -m gpt1_jax.pretrain --multihost=on --config=configs/pretrain.py \
      --workdir=gs://BUCKET/runs/gpt1 --config.data.path=gs://BUCKET/data/books
  launch/tpu_vm.sh logs --name=gpt1 --zone=us-west4-a
  launch/tpu_vm.sh delete --name=gpt1 --zone=us-west4-a

All of create, setup and run in one, on spot machines; made anew and gone on
with from the bucket whenever they are taken away; given back at the end:
  launch/tpu_vm.sh run --retry --delete-after --name=gpt1 --zone=us-west4-a \
      --type=v5litepod-16 --spot -- python -m gpt1_jax.pretrain ...

For every step:
  --name=NAME         yours to choose: lower-case letters, digits and -
  --zone=ZONE         of the TPU: gcloud compute tpus locations list
  --project=PROJECT   else the one of `gcloud config set project`
  --ssh-flag=FLAG     more for gcloud's ssh and scp (--internal-ip); repeatable
  --dry-run           prints each command as it would be run, and runs none

create, run --retry:
  --type=TYPE         v2-8 .. v2-512, v3-8 .. v3-2048, v4-8 ..., v5litepod-1 ..
                      v5litepod-256, v5p-8 ..., v6e-1 .. v6e-256. The number is
                      of chips for v5litepod and v6e, of cores (two a chip) else
  --spot              cheaper, and may be taken away at any time
  --direct            a TPU VM now or an error; else a queued resource, which
                      waits until there is room
  --timeout=SECONDS   stop waiting in the queue after so long (never)
  --runtime-version=V another image than the one for the type
  --create-flag=FLAG  more for gcloud's create (--network=...); repeatable
setup, prepare, run:
  --ignore-changes    go on in a tree with changes; they are not shipped, only
                      commits are
prepare:
  --books=gs://...    folder of .txt files, one a book;  --data=gs://... result
  -- FLAG...          more for gpt1_jax.prepare
run:
  --retry[=TIMES]     watch the run to its end; make the slice anew when it is
                      preempted (100 times). Leave it in tmux: only the watching
                      ends with this terminal, and the same command takes it up
  --delete-after      with --retry: give the slice back when all is over
logs, status, stop:
  --job=run|prepare   which (run)
logs:
  --worker=N|all  (all)   --lines=N  (100)   --follow, of one worker
  --output=DIR            a file a worker there: 0.log, 1.log, ...
create, prepare, run:
  --poll=SECONDS      between looks at the slice (30)
END
}

# shellcheck source=launch/tpu_slice.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_slice.sh"

common=' name zone project ssh-flag dry-run '
declare -A takes=(
  [create]='type spot direct timeout runtime-version create-flag poll'
  [setup]='ignore-changes'
  [prepare]='books data ignore-changes poll'
  [run]='type spot direct timeout runtime-version create-flag poll
    ignore-changes retry delete-after'
  [logs]='job worker lines follow output'
  [status]='job'
  [stop]='job'
  [delete]=''
)
switches=' spot direct dry-run ignore-changes delete-after follow '
words=() # the command that follows --

parse() {
  local key value
  while (($#)); do
    case $1 in
      --) words=("${@:2}") && return ;;
      --help | -h) usage && exit ;;
      --*=*) key=${1%%=*} key=${key#--} value=${1#*=} ;;
      --*) key=${1#--} value= ;;
      *) die "unexpected '$1': options are --name=value; -- begins a command" ;;
    esac
    [[ "$common ${takes[$step]//$'\n'/ } " == *" $key "* ]] ||
      die "$step takes no --$key; see --help"
    if [[ $switches == *" $key "* ]]; then
      [[ $1 == "--$key" ]] || die "--$key takes no value"
      value=yes
    elif [[ $1 == --retry ]]; then
      value=100
    elif [[ ! $value ]]; then
      die "--$key needs a value: --$key=..."
    fi
    case $key in
      create-flag) create_flags+=("$value") ;;
      ssh-flag) ssh_flags+=("$value") ;;
      *) option[$key]=$value ;;
    esac
    shift
  done
}

check() {
  local key
  ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) ||
    die "bash $BASH_VERSION is too old: 4.4 or later (macOS: brew install bash)"
  for key in name zone; do
    has $key || die "$step needs --$key=..."
  done
  [[ ${option[name]} =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
    die "--name=${option[name]}: lower-case letters, digits and -"
  for key in poll timeout lines retry; do
    [[ ${option[$key]:-0} =~ ^[0-9]+$ ]] ||
      die "--$key=${option[$key]}: a whole number is needed"
  done
  [[ ${option[job]} == run || ${option[job]} == prepare ]] ||
    die "--job=${option[job]}: run or prepare"
  [[ ${option[worker]} =~ ^(all|[0-9]+)$ ]] ||
    die "--worker=${option[worker]}: a number, or all"
  has dry-run || command -v gcloud > /dev/null ||
    die 'gcloud is not installed: https://cloud.google.com/sdk/docs/install'
}

# The steps ------------------------------------------------------------------

create() {
  check_type
  make_slice || die "$problem"
  say "${option[name]} is ready, and costs until: tpu_vm.sh delete"
}

setup() {
  find_commit
  ship || die "$problem"
}

prepare() {
  local key
  for key in books data; do
    [[ ${option[$key]:-} == gs://?* ]] || die "prepare needs --$key=gs://..."
  done
  find_commit
  start prepare 0 bash launch/tpu_worker.sh prepare \
    "${option[books]}" "${option[data]}" "${words[@]}" || die "$problem"
  follow prepare 0 || die "$problem"
  say "${option[data]}: ready"
}

run() {
  ((${#words[@]})) ||
    die 'run needs a command: run ... -- python -m gpt1_jax.pretrain ...'
  if has retry; then
    run_with_retry
    return
  fi
  has delete-after && die '--delete-after needs --retry'
  find_commit
  start run all "${words[@]}" || die "$problem"
  say "commit $commit runs on every worker; see logs, status"
}

run_with_retry() {
  local times=0
  [[ " ${words[*]}" =~ ' --workdir'[=\ ]'gs://' ]] ||
    die 'run --retry needs --workdir=gs://... in the command: what lies on' \
      'the workers is lost with them'
  check_type
  find_commit
  until problem='' again='' && bring_up && follow run all; do
    ((times < option[retry])) || again=''
    if [[ ! $again ]]; then
      ((times == 0)) || problem="after $times retries: $problem"
      break
    fi
    say "$problem: again ($((++times)) of ${option[retry]})"
    pause
  done
  if has dry-run; then
    echo '# Whenever the slice is preempted, and then all of the above:'
    remove
    make_slice
  fi
  if has delete-after; then
    tidy
  else
    say "${option[name]} costs until: tpu_vm.sh delete"
  fi
  [[ ! $problem ]] || die "$problem"
  say 'the run has ended well'
}

# A slice with the code and the run on it, whatever is there already.
bring_up() {
  look
  while [[ $state == waiting ]]; do
    say "${option[name]}: $detail"
    pause
    look
  done
  if [[ $state == blind ]]; then
    problem="no word of ${option[name]}: $detail"
    return 1
  fi
  if [[ $state == gone ]]; then
    remove || return 1
    make_slice || return 1
  fi
  ship && start run all "${words[@]}"
}

logs() {
  local arguments=(log "${option[job]}" "${option[lines]}")
  if has follow; then
    [[ ${option[worker]} != all ]] || die 'logs --follow needs --worker=N'
    arguments+=(follow)
  fi
  at_work "${option[worker]}" "${arguments[@]}"
  if has output; then
    try mkdir -p "${option[output]}" || die "${option[output]}: $(complaint)"
    command+=(--output-directory="${option[output]}")
  fi
  try "${command[@]}" || die "no log of every worker: $(complaint)"
}

status() {
  local found=''
  tpus queued-resources describe '--format=value(state.state)'
  if ask ACTIVE "${command[@]}"; then
    found=yes
    has dry-run || echo "queued resource: $answer"
  elif ! not_found; then
    die "${option[name]}: $(complaint)"
  fi
  tpus tpu-vm describe '--format=value(state)'
  if ask READY "${command[@]}"; then
    found=yes
    has dry-run || echo "slice: $answer"
  elif ! not_found; then
    die "${option[name]}: $(complaint)"
  fi
  [[ $found ]] || die "nothing named ${option[name]} in ${option[zone]}"
  [[ $answer == *READY* ]] || return 0
  at_work all status "${option[job]}"
  try "${command[@]}" ||
    die "not every worker answers, or setup was not run: $(complaint)"
}

stop() {
  at_work all stop "${option[job]}"
  try "${command[@]}" || die "not stopped on every worker: $(complaint)"
}

delete() {
  remove || die "$problem"
  if [[ $removed ]]; then
    say "${option[name]} is given back"
  elif ! has dry-run; then
    say "nothing named ${option[name]} in ${option[zone]}"
  fi
}

step=${1:-}
case $step in
  create | setup | prepare | run | logs | status | stop | delete) ;;
  '' | --help | -h | help) usage && exit ;;
  *)
    die "unknown step '$step': create, setup, prepare, run, logs, status," \
      'stop or delete; see --help'
    ;;
esac
parse "${@:2}"
check
interrupted='interrupted; what was started goes on, and costs: see status'
trap 'die "$interrupted"' INT TERM
"$step"
