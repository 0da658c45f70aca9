"""Finds run folders and reads each into a `RunRecord`.

A run folder holds config.json, or folders seed-N that do. Run folders may lie
at any depth below the folder that is searched.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pydantic

from gpt1_jax import errors, storage
from gpt1_jax.errors import UserError
from gpt1_jax.reporting.records import RunRecord
from gpt1_jax.tasks import summary
from gpt1_jax.tasks.scores import Scores
from gpt1_jax.tasks.zero_shot import results
from gpt1_jax.train import (
  file_shapes,
  run as run_lib,
  score_file,
  telemetry,
)

_SEED = 'seed-'
# Settings that runs of several seeds share; all of a section without names.
_DECISIVE = {
  'transfer': (),
  'model': (),
  'head': (),
  'optim': (),
  'train': ('num_epochs', 'num_steps', 'patience'),
  'data': ('batch_size', 'truncation', 'drop_last'),
}
_ZERO_SHOT = pydantic.TypeAdapter(list[results.ZeroShotScore])


def find(names: Sequence[str]) -> list[RunRecord]:
  """Reads all runs in the folders, each once, sorted by name within a folder.

  Skips files that are damaged or written by another program, and prints a line
  for each.

  Raises:
    UserError: a folder holds no run.
  """
  found: dict[storage.Path, RunRecord] = {}
  for name in names:
    path = storage.path(name)
    if not path.is_dir():
      raise UserError(f'{name}: no such folder')
    runs = list(_walk(path))
    if not runs:
      raise UserError(
        f'{name}: no run here or below (no config.json of a run); give the '
        '--workdir of a pretrain or finetune command, or a folder that holds '
        'such runs'
      )
    for run in runs:
      found.setdefault(run.path, run)
  paths = [os.fspath(path) for path in found]
  if len({storage.is_remote(path) for path in paths}) > 1:
    short = paths  # a bucket and a local folder share no parent
  else:
    parent = os.path.commonpath([os.path.dirname(path) for path in paths])
    short = [os.path.relpath(path, parent) for path in paths]
  return [
    dataclasses.replace(run, name=name)
    for run, name in zip(found.values(), short, strict=True)
  ]


def load(folder: storage.Path | str) -> RunRecord:
  """Reads the run, or the runs of several seeds, in one folder.

  Raises:
    UserError: config.json is missing, damaged or written by another program.
  """
  folder = storage.path(folder)
  if seeds := _seed_folders(folder):
    each = [load(seed) for seed in seeds]
    if any(run.command != 'finetune' for run in each):
      raise UserError(f'{folder}: seeds of fine-tuning only are combined')
    _check_equal_settings(each)
    return _combine(folder, each)
  header = run_lib.load(os.fspath(folder))
  tuned = header['command'] == 'finetune'
  scores, metrics = _read_scores(folder, tuned), _read_metrics(folder)
  state = 'finished'
  done = (scores or {}).get('updates') if tuned else None
  if done and done < header['num_steps']:
    state += f' early: update {done:,} of {header["num_steps"]:,}'
  if not scores and header['command'] != 'convert':
    state = 'not finished'
    if metrics:
      state += f': update {metrics[-1]["step"]:,}'
    if metrics and 'num_steps' in header:
      state += f' of {header["num_steps"]:,}'
  return RunRecord(
    name=str(folder),
    path=storage.resolved(folder),
    header=header,
    scores=scores if tuned else None,
    pretraining=None if tuned else scores,
    state=state,
    metrics=metrics,
    zero_shot=_read_zero_shot(folder),
    samples=_read_samples(folder),
  )


def summarize(runs: Sequence[RunRecord]) -> str:
  """Returns one line that counts the runs by command and state."""
  counts = {
    'pretraining': sum(run.command == 'pretrain' for run in runs),
    'converted': sum(run.command == 'convert' for run in runs),
    'fine-tuning': sum(run.command == 'finetune' for run in runs),
    'not finished': sum(run.state.startswith('not') for run in runs),
    'with zero-shot scores': sum(bool(run.zero_shot) for run in runs),
  }
  parts = ', '.join(f'{n} {name}' for name, n in counts.items() if n)
  return f'{len(runs)} run{"s" * (len(runs) != 1)}: {parts}'


def _walk(top: storage.Path) -> Iterator[RunRecord]:
  """Yields runs depth first; does not look inside a run folder."""
  for folder, below, files in storage.walk(top):
    below.sort(key=_natural)
    if 'config.json' in files or _seed_folders(folder):
      run = _or_skip(None, load, folder)
      if run:
        below.clear()
        yield run


def _or_skip(default: Any, read: Callable[..., Any], *args: Any) -> Any:
  """Calls `read`; prints a line and returns `default` if a file is unusable."""
  try:
    return read(*args)
  except (UserError, OSError) as error:
    print(f'skipped {errors.describe(error)[0]}', file=sys.stderr)
    return default


def _seed_folders(folder: storage.Path) -> list[storage.Path]:
  """Returns the seed-N folders of started runs, sorted by N."""
  found = {
    path.parent.name.removeprefix(_SEED): path.parent
    for path in folder.glob(f'{_SEED}*/config.json')
  }
  return [found[n] for n in sorted(filter(str.isdecimal, found), key=int)]


def _natural(name: str) -> tuple[list[str], list[int]]:
  """Returns a sort key that puts layers-2 before layers-10."""
  digits = ''.join(c if c.isdecimal() else ' ' for c in name).split()
  words = ''.join(' ' if c.isdecimal() else c for c in name).split()
  return words, [int(number) for number in digits]


def _read_scores(folder: storage.Path, tuned: bool) -> Any:
  command = 'finetune' if tuned else 'pretrain'
  return _or_skip(None, score_file.find, folder, command)


def _read_metrics(folder: storage.Path) -> list[telemetry.Row]:
  path = folder / telemetry.METRICS
  rows = _or_skip([], telemetry.read_rows, path)
  return [row for row in rows if 0 <= row['step'] <= 2**53]


def _read_zero_shot(folder: storage.Path) -> Any:
  rows = _or_skip([], results.read_rows, folder)
  path = folder / results.ROWS
  return _or_skip([], file_shapes.check, rows, path, _ZERO_SHOT)


def _read_samples(folder: storage.Path) -> str:
  path = folder / 'samples.txt'
  text = _or_skip(b'', storage.read_bytes, path) if path.exists() else b''
  return text.decode('utf-8', 'replace')


def _combine(folder: storage.Path, each: list[RunRecord]) -> RunRecord:
  """Combines the runs of a folder's seeds into one record.

  `finetune` writes config.json and, once all seeds are done, scores.json
  beside the seeds; a sweep writes neither.
  """
  header, scores = each[0].header, _read_scores(folder, tuned=True)
  finished = [run.scores for run in each if run.scores]
  wanted = len(each)
  if (folder / 'config.json').exists():
    header = run_lib.load(os.fspath(folder))
    wanted = max(wanted, header['config']['train']['seeds'])
  elif len(finished) == wanted:
    scores = summary.over_seeds(cast(list[Scores], finished))
  state = 'finished'
  if not scores:
    state = f'not finished: {len(finished)} of {wanted} seeds'
  samples = (_read_samples(folder), *(run.samples for run in each))
  return RunRecord(
    name=str(folder),
    path=storage.resolved(folder),
    header=header,
    scores=scores,
    pretraining=None,
    state=state,
    metrics=each[0].metrics,
    samples=next(filter(None, samples), ''),
    commits=[run.header['commit'] for run in each],
  )


def _check_equal_settings(seeds: list[RunRecord]) -> None:
  """Raises UserError if runs of seeds differ in more than the seed."""
  first, *others = seeds
  wanted = _settings(first)
  for run in others:
    found = _settings(run)
    names = sorted(wanted.keys() | found.keys())
    if different := [x for x in names if wanted.get(x) != found.get(x)]:
      raise UserError(
        f'{run.name}: differs from {first.path.name} beside it in '
        f'{", ".join(different)}; move one of them to another folder'
      )


def _settings(run: RunRecord) -> dict[str, Any]:
  """Returns the settings that decide a score, without seeds and paths."""
  config: Any = run.header['config']
  found = {'config.task': config['task']}
  for section, names in _DECISIVE.items():
    values = config[section]
    for name in names or values:
      found[f'config.{section}.{name}'] = values.get(name)
  return found
