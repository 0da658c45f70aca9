"""Records each start of a run in WORKDIR/history.jsonl."""

import json
import platform
import time
from typing import TypedDict

import jax

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.train import hosts, run as run_lib, score_file

HISTORY = 'history.jsonl'


def begin(run: run_lib.Run, step: int) -> None:
  """Records a start of the run, once its state has been restored.

  Writes config.json, the tokenizer of a new run, and a row of history.jsonl
  with the settings that have changed. If the number of updates has changed,
  prints it; removes the scores of a finished run that continues.

  Raises:
    UserError: the directory holds another run, or one forked from elsewhere.
  """
  workdir, header = run.workdir, run.header.copy()
  changes = run_lib.changes(workdir, header['command'], header['config'])
  before = None if changes is None else run_lib.load(workdir)
  origin = before.get('forked_from') if before else None
  if run.fork and before and (not origin or origin['run'] != run.fork.run):
    raise UserError(
      f'{workdir}: holds a run that was not forked from {run.fork.run}; give '
      'another --workdir, or leave out --fork_from'
    )
  if run.fork and not before:
    origin = {'run': run.fork.run, 'step': step}
  if origin:
    header['forked_from'] = origin
  if jax.process_index() == 0:
    if not before:
      run.tokenizer.save(f'{workdir}/tokenizer')
    scores = score_file.path(workdir)
    if step < header['num_steps'] and scores.exists():
      scores.unlink()  # outdated: the run was shorter
  if before and before['num_steps'] != header['num_steps']:
    hosts.say(
      f'{workdir}: {header["num_steps"]} updates now, {before["num_steps"]} '
      f'before; after update {step} the learning rate follows the schedule of '
      f'{header["num_steps"]} updates'
    )
  run_lib.record(workdir, header)
  if jax.process_index() == 0:
    _append(workdir, _row(step, header, changes))


class _Start(TypedDict):
  """A row of history.jsonl."""

  time: str
  step: int
  num_steps: int
  commit: str | None
  host: str
  hosts: int
  devices: str
  changes: run_lib.Changes


def _row(
  step: int, header: run_lib.RunHeader, changes: run_lib.Changes | None
) -> _Start:
  device = jax.devices()[0]
  return {
    'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    'step': step,
    'num_steps': header['num_steps'],
    'commit': header['commit'],
    'host': platform.node(),
    'hosts': jax.process_count(),
    'devices': f'{jax.device_count()} {device.device_kind}',
    'changes': changes or {},
  }


def _append(workdir: str, row: _Start) -> None:
  """Adds a row; a bucket replaces whole objects."""
  path = storage.path(workdir) / HISTORY
  rows = storage.read_bytes(path) if path.exists() else b''
  if rows and not rows.endswith(b'\n'):
    rows += b'\n'  # the last row is torn
  storage.write_bytes(path, rows + json.dumps(row).encode() + b'\n')
