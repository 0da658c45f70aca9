"""A gcloud for tests: one slice whose workers are folders.

Its state is in the folder $FAKE_CLOUD: `world.json` (states, and the calls to
refuse), `calls.jsonl` (every call, in order), `workers/N` (home folders) and
`bucket/`. A command sent over ssh runs in its worker's home folder. Preemption
kills the processes there and removes the folders.
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
from collections.abc import Iterator
from typing import Any, NoReturn

CLOUD = pathlib.Path(os.environ['FAKE_CLOUD'])
WORKERS = 2
NOT_FOUND = 'ERROR: NOT_FOUND: Resource "gpt1" was not found'
REFUSALS = {
  'quota': "Quota limit 'TPUV5sLitepod' has been exceeded. Limit: 0 in zone z.",
  'capacity': 'There is no more capacity in the zone "z"; try another zone.',
  'exists': '{"code": 6, "message": "ALREADY_EXISTS: Resource already exists"}',
  'forbidden': "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied.",
}


def main() -> None:
  _, _, kind, verb, *rest = sys.argv[1:]
  with (CLOUD / 'calls.jsonl').open('a') as file:
    file.write(json.dumps(sys.argv[1:]) + '\n')
  if verb in ('ssh', 'scp'):
    globals()[verb](rest)
    return
  with world() as state:
    globals()[verb](state, kind)


@contextlib.contextmanager
def world() -> Iterator[dict[str, Any]]:
  """Yields the state; writes it back however the block ends."""
  path = CLOUD / 'world.json'
  with (CLOUD / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    state = json.loads(path.read_text())
    try:
      yield state
    finally:
      path.write_text(json.dumps(state))


def fail(message: str, code: int = 1) -> NoReturn:
  print(message, file=sys.stderr)
  sys.exit(code)


def create(state: dict[str, Any], kind: str) -> None:
  refuse = state['create'].pop(0) if state['create'] else 'ok'
  if refuse in REFUSALS:
    fail(f'ERROR: (gcloud.compute.tpus.{kind}.create) {REFUSALS[refuse]}')
  state['queue'] = state['queue_states'] or ['ACTIVE']
  state['node'] = 'READY'
  for worker in range(WORKERS):
    (CLOUD / 'workers' / str(worker)).mkdir(parents=True)


def describe(state: dict[str, Any], kind: str) -> None:
  if kind == 'tpu-vm':
    print(state['node'] or fail(NOT_FOUND))
    return
  print(state['queue'][0] if state['queue'] else fail(NOT_FOUND))
  if len(state['queue']) > 1:
    state['queue'].pop(0)


def delete(state: dict[str, Any], kind: str) -> None:
  if not state['queue']:
    fail(NOT_FOUND)
  if state['delete'] == 'refused':
    fail(f'ERROR: (gcloud.compute.tpus.{kind}) UNAVAILABLE: service is away')
  state['queue'], state['node'] = [], ''
  remove_machines()


def remove_machines() -> None:
  for group in CLOUD.glob('workers/*/gpt1_jax/job/group'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(group.read_text()), signal.SIGKILL)
  shutil.rmtree(CLOUD / 'workers', ignore_errors=True)


def reachable(rest: list[str]) -> list[tuple[pathlib.Path, bool]]:
  """Returns the home of each addressed worker, and True if it answers.

  The last worker refuses as often as `world.json` says. The slice is preempted
  when worker 0 has written the step `preempt_at_step`.
  """
  words = ' '.join(rest)
  with world() as state:
    steps = CLOUD / 'bucket' / 'steps'
    at = state['preempt_at_step']
    if at and steps.exists() and steps.read_text() == at:
      state.update(preempt_at_step='', node='PREEMPTED', queue=['SUSPENDED'])
      remove_machines()
    if state['node'] != 'READY':
      fail('ERROR: (gcloud.compute.tpus.tpu-vm.ssh) the TPU is not usable')
    kind = 'refuse_start' if ' start ' in words else 'refuse_ssh'
    refused = state[kind] > 0
    state[kind] -= refused
  worker = re.findall(r'--worker=(\S+)', words)[0]
  numbers = range(WORKERS) if worker == 'all' else [int(worker)]
  return [
    (CLOUD / 'workers' / str(n), not (refused and n == WORKERS - 1))
    for n in numbers
  ]


def ssh(rest: list[str]) -> None:
  command = next(w[10:] for w in rest if w.startswith('--command='))
  code = 0
  for home, there in reachable(rest):
    if there:
      env = {**os.environ, 'HOME': str(home), 'TPU_WORKER_ID': home.name}
      done = subprocess.run(['bash', '-c', command], cwd=home, env=env)
    if not there or done.returncode:
      code = done.returncode if there else 255
      print(f'##### Command on worker {home.name} failed', file=sys.stderr)
  sys.exit(code)


def scp(rest: list[str]) -> None:
  *sources, _ = [word for word in rest if not word.startswith('--')]
  for home, there in reachable(rest):
    if not there:
      fail('ssh: connect to 10.0.0.1 port 22: Connection refused', 255)
    for source in sources:
      shutil.copy(source, home)


if __name__ == '__main__':
  main()
