# shellcheck shell=bash disable=SC2034  # tpu_vm.sh reads what is set here
# Sourced by tpu_vm.sh: the slice, the code on it and the job that runs there.
# A function that fails says why in $problem, and in $again if the same may work
# later; nothing exits but through `die`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp)
trap 'rm -f "$scratch"' EXIT

declare -A option=([poll]=30 [timeout]=0 [lines]=100 [worker]=all [job]=run)
create_flags=() ssh_flags=() command=()
said='' answer=''      # of the last command: stderr, stdout
state='' detail=''     # of the slice, see look
blind=0                # looks in a row that saw nothing
step='' image='' chips='' commit='' removed='' refused=''
problem='' again=''

say() { echo "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

has() { [[ ${option[$1]:-} ]]; }

# The image of a type, in $image, and its chips. The names are those of
# https://cloud.google.com/tpu/docs/runtimes for JAX.
check_type() {
  local type=${option[type]:-} wrong='' number
  [[ $type ]] || die "$step needs --type=..., v5litepod-16 for example"
  number=${type##*-}
  [[ $number =~ ^[1-9][0-9]*$ ]] || number=0
  chips=$((number / 2))
  case $type in
    v2-* | v3-*)
      image=tpu-ubuntu2204-base
      local most=512
      [[ $type == v3-* ]] && most=2048
      ((number >= 8 && number <= most && (number & (number - 1)) == 0)) ||
        wrong="a power of two from 8 to $most"
      ;;
    v4-* | v5p-*)
      image=tpu-ubuntu2204-base
      local most=8192
      [[ $type == v5p-* ]] && image=v2-alpha-tpuv5 most=12288
      ((number >= 8 && number <= most && number % 8 == 0)) ||
        wrong="a multiple of 8 from 8 to $most"
      ;;
    v5litepod-* | v6e-*)
      image=v2-alpha-tpuv6e
      [[ $type == v5litepod-* ]] && image=v2-alpha-tpuv5-lite
      chips=$number
      [[ ' 1 4 8 16 32 64 128 256 ' == *" $number "* ]] ||
        wrong='one of 1 4 8 16 32 64 128 256'
      ;;
    v5e-*) die "--type=$type: Cloud calls it v5litepod-${type#v5e-}" ;;
    tpu7x* | v7*)
      die "--type=$type: TPU7x is on GKE only: launch/gke_jobset.yaml"
      ;;
    *) die "--type=$type: unknown; v2-, v3-, v4-, v5litepod-, v5p- or v6e-N" ;;
  esac
  [[ ! $wrong ]] || die "--type=$type: the number is $wrong"
  image=${option[runtime-version]:-$image}
}

# Commands ------------------------------------------------------------------

# Words as a shell would have to read them.
quoted() {
  local word out=()
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    out+=("$word")
  done
  echo "${out[*]}"
}

# Runs a command; $said is what it wrote to stderr.
try() {
  local code=0
  if has dry-run; then
    quoted "$@"
    return
  fi
  "$@" < /dev/null 2> "$scratch" || code=$?
  said=$(< "$scratch")
  return $code
}

# ask ASSUMED COMMAND...: $answer is its stdout; what --dry-run assumes it is.
ask() {
  local code=0
  answer=$1
  shift
  if has dry-run; then
    quoted "$@"
    return
  fi
  answer=$("$@" < /dev/null 2> "$scratch") || code=$?
  said=$(< "$scratch")
  return $code
}

# What the last command complained of, in one line: a worker's own words first.
complaint() {
  local line
  line=$(grep -m 1 '^error: worker' <<< "$said") ||
    line=$(grep -iE 'error|fail|refused|denied|exceeded|capacity' <<< "$said" |
      tail -n 1) || line=$(tail -n 1 <<< "$said")
  sed -E 's/^(ERROR|error): *(\([^)]*\))? *//' <<< "${line:-no reason given}"
}

not_found() {
  grep -qiE 'not[_ ]found|not be found|does not exist' <<< "$said"
}

tpus() { # tpus queued-resources|tpu-vm VERB ...: words of the gcloud command
  command=(gcloud compute tpus "$1" "$2" "${option[name]}"
    --zone="${option[zone]}" ${option[project]:+"--project=${option[project]}"}
    "${@:3}")
}

on() { # on WORKER WORD...: words of the command that runs WORDs there
  tpus tpu-vm ssh --worker="$1" --quiet "${ssh_flags[@]}" \
    --command="${*:2}"
}

at_work() { # at_work WORKER WORD...: the same for a step of tpu_worker.sh
  on "$1" "$(quoted bash gpt1_jax/tpu_worker.sh "${@:2}")"
}

pause() { has dry-run || sleep "${option[poll]}"; }

# The slice -----------------------------------------------------------------

# $state of the slice: ready, waiting, gone, or blind when Cloud has not
# answered for long; $detail in Cloud's words. A slice without a queued resource
# was made with --direct.
look() {
  if has direct; then
    :
  elif see queued-resources ACTIVE state.state; then
    case $detail in
      *FAILED*)
        tpus queued-resources describe \
          '--format=value(state.failedData.error.message)'
        ask '' "${command[@]}" && detail+=": $answer"
        state=gone && return
        ;;
      *SUSPEND* | *DELETING*) state=gone && return ;;
      *ACTIVE*) ;;
      *) state=waiting && return ;;
    esac
  elif [[ $state != gone ]]; then
    return 0
  fi
  see tpu-vm READY state || return 0
  case $detail in
    *PREEMPTED* | *TERMINATED* | *STOPP* | *DELETING*) state=gone ;;
    *READY*) state=ready ;;
    *) state=waiting ;;
  esac
}

see() { # see queued-resources|tpu-vm ASSUMED FIELD: into $detail
  tpus "$1" describe "--format=value($3)"
  if ask "$2" "${command[@]}"; then
    detail=$answer blind=0
    return
  fi
  detail=$(complaint) state=waiting
  if not_found; then
    state=gone
  elif ((++blind >= 5)) || grep -qiE 'permission_?denied|account|credential' \
    <<< "$said"; then
    state=blind
  fi
  return 1
}

# Gives back whatever has the name; says in $problem why it could not.
remove() {
  local kind flags deleted='' failed=''
  for kind in queued-resources tpu-vm; do
    flags=(--quiet)
    [[ $kind == tpu-vm ]] || flags+=(--force)
    tpus $kind delete "${flags[@]}"
    if try "${command[@]}"; then
      deleted=yes
    elif ! not_found; then
      failed="${failed:-$(complaint)}"
    fi
  done
  removed=$deleted
  [[ ! $failed ]] && return
  problem="${option[name]} may still be there, and cost: $failed"
  return 1
}

# Asks for the slice and waits for it; else $problem, and nothing is left.
# $again: the same may work later.
make_slice() {
  local started=$SECONDS what="${option[type]} in ${option[zone]}"
  local flags=(--accelerator-type="${option[type]}")
  has spot && flags+=(--spot)
  if has direct; then
    tpus tpu-vm create "${flags[@]}" --version="$image" "${create_flags[@]}"
  else
    ((option[timeout] == 0)) ||
      flags+=("--valid-until-duration=${option[timeout]}s")
    tpus queued-resources create --node-id="${option[name]}" "${flags[@]}" \
      --runtime-version="$image" "${create_flags[@]}"
  fi
  say "asking for $what: $chips chips${option[spot]:+, spot}, image $image"
  if ! try "${command[@]}"; then
    refusal "$what"
    [[ $refused == exists ]] || tidy
    return 1
  fi
  while look && [[ $state == waiting ]]; do
    if ((option[timeout] > 0 && SECONDS - started >= option[timeout])); then
      detail="not there after ${option[timeout]} seconds: $detail"
      break
    fi
    say "$what: ${detail:-no answer yet}"
    pause
  done
  [[ $state == ready ]] && return
  [[ ${detail,,} == *quota* ]] || again=yes
  problem="no $what ($detail): the request was given back; try again later"
  problem+=', or another --zone'
  tidy
  return 1
}

# Turns gcloud's refusal to create into $problem.
refusal() {
  local reason
  reason=$(complaint)
  refused=other again=
  if grep -qiE 'already[_ ]exists' <<< "$said"; then
    refused=exists
    problem="${option[name]} exists already: see status; delete it, or another"
    problem+=' --name'
  elif grep -qi quota <<< "$said"; then
    problem="no quota for $1: ask for it in the console, IAM > Quotas, Cloud"
    problem+=" TPU API, or take another --zone or --type ($reason)"
  elif grep -qiE 'capacity|RESOURCE_?EXHAUSTED|stockout' <<< "$said"; then
    again=yes
    problem="no room for $1 now: try again later, in another --zone, or without"
    problem+=" --direct, to wait in the queue ($reason)"
  elif grep -qiE 'SERVICE_DISABLED|has not been used' <<< "$said"; then
    problem='the TPU service is off: gcloud services enable tpu.googleapis.com'
  else
    problem="could not create $1: $reason"
  fi
}

# remove, after something went wrong: keeps $problem, adds what is left.
tidy() {
  local first=$problem
  if remove; then
    problem=$first
  else
    problem="${first:+$first; and }$problem"
  fi
}

# The code and the job -------------------------------------------------------

# The commit that is shipped, in $commit: the same 12 digits as in config.json.
find_commit() {
  commit=$(git -C "$root" rev-parse --short=12 'HEAD^{commit}' 2> /dev/null) ||
    die "$root: not a git checkout with a commit; code is shipped as a commit"
  has ignore-changes || [[ ! $(git -C "$root" status --porcelain) ]] ||
    die 'the tree has changes, and only commits are shipped: commit them, or' \
      'leave them behind with --ignore-changes'
}

# An archive of the commit to every worker, unpacked and installed there.
ship() {
  local archive=gpt1_jax-$commit.tar.gz place=gpt1_jax/$commit code=0
  local file=$root/build/$archive
  say "commit $commit: to every worker of ${option[name]}, a few minutes"
  try mkdir -p "$root/build" || die "$root/build: $(complaint)"
  try git -C "$root" archive --format=tar.gz --output="$file" "$commit" ||
    die "git archive: $(complaint)"
  command=(gcloud compute tpus tpu-vm scp "$file" "${option[name]}:$archive"
    --zone="${option[zone]}" ${option[project]:+"--project=${option[project]}"}
    --worker=all --quiet "${ssh_flags[@]}")
  try "${command[@]}" || code=$?
  if ((code == 0)); then
    on all "mkdir -p $place && tar -xzf $archive -C $place && rm $archive &&" \
      "bash $place/launch/tpu_worker.sh setup $commit"
    try "${command[@]}" || code=$?
  fi
  local reason
  reason=$(complaint)
  try rm -f "$file" || true
  ((code == 0)) && return
  again=yes
  problem="commit $commit is not on every worker, run setup again: $reason"
  return 1
}

# start JOB WORKER COMMAND...: on all of the workers, or on none. A job that has
# lost some of its workers is ended on the others first.
start() {
  at_work "$2" status "$1"
  if ! ask "worker 0: $1: none" "${command[@]}"; then
    again=yes
    problem="not every worker answers, or setup was not run: $(complaint)"
    return 1
  elif grep -q ": $1: running" <<< "$answer" &&
    grep -qv ": $1: running" <<< "$answer"; then
    halt "$1" "$2"
  fi
  at_work "$2" start "$commit" "$1" "${@:3}"
  try "${command[@]}" && return
  if [[ $said == *'another '*' is running'* ]]; then
    problem=$(complaint)
    return 1
  fi
  again=yes
  problem="$1 did not start on every worker, and was stopped on the others: "
  problem+=$(complaint)
  at_work "$2" stop "$1"
  try "${command[@]}" || problem+='; stop failed too, see status'
  return 1
}

# follow JOB WORKER: until it has ended well everywhere; else $problem.
follow() {
  local job=$1 worker=$2 silent=0 failed=0 shown=''
  while true; do
    look
    if [[ $state == gone ]]; then
      again=yes
      problem="${option[name]} was preempted or deleted ($detail)"
      return 1
    elif [[ $state == blind ]]; then
      problem="no word of ${option[name]}, the job may go on: $detail"
      return 1
    fi
    at_work "$worker" status "$job"
    if [[ $state == waiting ]]; then
      : # repaired or restarted: not to be reached
    elif ! ask "worker 0: $job: exit 0," "${command[@]}" ||
      [[ $answer != *": $job: "* ]]; then
      ((++silent < 5)) || {
        problem="not every worker of ${option[name]} answers: $(complaint)"
        return 1
      }
    elif grep -qE ": $job: (lost|none)" <<< "$answer"; then
      again=yes
      problem='a worker was restarted'
      halt "$job" "$worker"
      return 1
    elif grep -qE ": $job: exit [1-9]" <<< "$answer"; then
      # The others of a preempted worker fail first: Cloud may say so later.
      silent=0
      ((++failed < 3)) || {
        problem=$(grep -m 1 -E ": $job: exit [1-9]" <<< "$answer")
        problem="$problem (see logs)"
        halt "$job" "$worker"
        return 1
      }
    elif grep -qE ": $job: running" <<< "$answer"; then
      silent=0
      [[ $answer == "$shown" ]] || say "$(grep -m 1 . <<< "$answer")"
      shown=$answer
    else
      return 0
    fi
    pause
  done
}

halt() { # what still runs of a job that failed elsewhere
  at_work "$2" stop "$1"
  try "${command[@]}" || problem+='; stop failed, see status'
}
