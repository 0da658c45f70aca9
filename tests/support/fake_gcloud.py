"""A gcloud for tests: one slice, workers that are folders, gs:// as a folder.

Its world is the folder $FAKE_CLOUD: `world.json` (states, and what to refuse),
`calls.jsonl` (every call, in order), `workers/N` (their homes), `bucket/`. A
command over ssh really runs, with its worker's home; preemption kills what runs
there and removes the homes.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ['FAKE_CLOUD'])
WORKERS = 2
REFUSALS = {
  'quota': "Quota limit 'TPUV5sLitepod' has been exceeded. Limit: 0 in zone z.",
  'capacity': 'There is no more capacity in the zone "z"; try another zone.',
  'exists': '{"code": 6, "message": "ALREADY_EXISTS: Resource already exists"}',
  'disabled': 'Cloud TPU API has not been used in project p before. Enable it.',
  'forbidden': "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied.",
}


def main() -> None:
  words = sys.argv[1:]
  if words[0] == 'storage':
    storage(words[1:])
    return
  record(words)
  _, _, kind, verb, *rest = words
  if verb in ('ssh', 'scp'):
    {'ssh': ssh, 'scp': scp}[verb](rest)
    return
  with world() as state:
    {'create': create, 'describe': describe, 'delete': delete}[verb](
      state, kind, rest
    )


def record(words: list[str]) -> None:
  with (CLOUD / 'calls.jsonl').open('a') as file:
    file.write(json.dumps(words) + '\n')


@contextlib.contextmanager
def world():
  """The states, kept when the block ends, however it ends."""
  path = CLOUD / 'world.json'
  with (CLOUD / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    state = json.loads(path.read_text())
    try:
      yield state
    finally:
      path.write_text(json.dumps(state))


def fail(message: str, code: int = 1) -> None:
  print(message, file=sys.stderr)
  sys.exit(code)


def create(state: dict, kind: str, rest: list[str]) -> None:
  refuse = state['create'].pop(0) if state['create'] else 'ok'
  if refuse in REFUSALS:
    fail(f'ERROR: (gcloud.compute.tpus.{kind}.create) {REFUSALS[refuse]}')
  if kind == 'queued-resources':
    state['queue'] = state['queue_states'] or ['ACTIVE']
  state['node'] = 'READY'
  for worker in range(WORKERS):
    (CLOUD / 'workers' / str(worker)).mkdir(parents=True)


def describe(state: dict, kind: str, rest: list[str]) -> None:
  form = next(word for word in rest if word.startswith('--format='))
  if 'failedData' in form:
    print(state.get('why', ''))
  elif kind == 'queued-resources':
    if not state['queue']:
      fail('ERROR: NOT_FOUND: Resource "gpt1" was not found')
    print(state['queue'][0])
    if len(state['queue']) > 1:
      state['queue'].pop(0)
  elif not state['node']:
    fail('ERROR: NOT_FOUND: Resource "gpt1" was not found')
  else:
    print(state['node'])


def delete(state: dict, kind: str, rest: list[str]) -> None:
  there = state['queue'] if kind == 'queued-resources' else state['node']
  if not there:
    fail('ERROR: NOT_FOUND: Resource "gpt1" was not found')
  if state['delete'] == 'refused':
    fail('ERROR: (gcloud.compute.tpus) UNAVAILABLE: the service is away')
  state['queue'] = []
  state['node'] = ''
  take_away()


def take_away() -> None:
  """The machines are gone, and what ran on them."""
  for group in CLOUD.glob('workers/*/gpt1_jax/jobs/*/group'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(group.read_text()), signal.SIGKILL)
  shutil.rmtree(CLOUD / 'workers', ignore_errors=True)


def targets(rest: list[str]) -> list[int]:
  """Workers that are addressed; exits where the slice is not."""
  worker = re.search(r'--worker=(\S+)', ' '.join(rest)).group(1)
  with world() as state:
    steps = CLOUD / 'bucket' / 'b' / 'run' / 'steps'
    at = state['preempt_at_step']
    if at and steps.exists() and steps.read_text() == at:
      state['preempt_at_step'] = ''
      state['node'] = 'PREEMPTED'
      state['queue'] = state['queue'] and ['SUSPENDED']
      take_away()
    if state['node'] != 'READY':
      fail('ERROR: (gcloud.compute.tpus.tpu-vm.ssh) the TPU is not usable')
  return list(range(WORKERS)) if worker == 'all' else [int(worker)]


def refused(worker: int, command: str) -> bool:
  """The last worker, as often as the world says, of all or of `start`."""
  kind = 'refuse_start' if ' start ' in command else 'refuse_ssh'
  with world() as state:
    if state[kind] and worker == WORKERS - 1:
      state[kind] -= 1
      print(
        f'ssh: connect to 10.0.0.{worker} port 22: Connection refused\n'
        f'##### Command execution on worker {worker} failed with exit status '
        '255. Continuing.',
        file=sys.stderr,
      )
      return True
  return False


def ssh(rest: list[str]) -> None:
  command = next(w[10:] for w in rest if w.startswith('--command='))
  code = 0
  for worker in targets(rest):
    if refused(worker, command):
      code = 255
      continue
    home = CLOUD / 'workers' / str(worker)
    done = subprocess.run(
      ['bash', '-c', command],
      check=False,
      cwd=home,
      env={**os.environ, 'HOME': str(home), 'TPU_WORKER_ID': str(worker)},
    )
    code = code or done.returncode
  if code:
    fail('##### Command execution failed. Continuing.', code)


def scp(rest: list[str]) -> None:
  source, destination = rest[:2]
  for worker in targets(rest):
    if refused(worker, 'scp'):
      sys.exit(255)
    target = destination.split(':', 1)[1]
    shutil.copy(source, CLOUD / 'workers' / str(worker) / target)


def storage(words: list[str]) -> None:
  """ls, cp and rsync --recursive, without deletion."""
  paths = [
    pathlib.Path(word.replace('gs:/', str(CLOUD / 'bucket'), 1))
    for word in words[1:]
    if not word.startswith('--')
  ]
  if words[0] == 'ls':
    sys.exit(not paths[0].exists())
  source, destination = paths
  destination.parent.mkdir(parents=True, exist_ok=True)
  if words[0] == 'cp':
    shutil.copy(source, destination)
    return
  patterns = [w[10:] for w in words if w.startswith('--exclude=')]
  shutil.copytree(
    source,
    destination,
    dirs_exist_ok=True,
    ignore=lambda _, names: [
      n for n in names if any(re.search(p, n) for p in patterns)
    ],
  )


if __name__ == '__main__':
  main()
