"""Defines the commands that launch/torture.py disturbs, and their results."""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import checkout

from gpt1_jax.train import checkpoint
from tests import QUICKLY_COMPILED
from tests.support import small_runs

Counts = collections.Counter[str]

_TINY = (
  '--config.model.n_layer=1',
  '--config.model.n_embd=32',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=4',
  '--config.train.num_steps=600',
  '--config.train.eval_every=200',
  '--config.train.checkpoint_every=50',
)
_QUICKLY = {'XLA_FLAGS': QUICKLY_COMPILED}
_reading = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Command:
  """A command to disturb.

  Attributes:
    name: its name.
    words: its arguments, for an output folder.
    result: digest of what an output folder holds.
    all_or_nothing: True if it must leave its whole output or none.
    repeats: True if it accepts complete output; False if it refuses it.
  """

  name: str
  words: Callable[[pathlib.Path], list[str]]
  result: Callable[[pathlib.Path], str]
  all_or_nothing: bool = False
  repeats: bool = True

  def start(self, output: pathlib.Path, *before: str) -> subprocess.Popen[str]:
    """Starts the command.

    Args:
      output: the folder to write.
      *before: a program that runs the command, and its arguments.
    """
    words = ['-m', f'gpt1_jax.{self.name}', *self.words(output)]
    return subprocess.Popen(
      [*before, sys.executable, *words],
      cwd=checkout.ROOT,
      env=_QUICKLY | os.environ | checkout.environment(),
      text=True,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )

  def is_equal(self, output: pathlib.Path, expected: pathlib.Path) -> bool:
    """Returns True if two output folders hold the same."""
    with _reading:  # Orbax
      return self.result(output) == self.result(expected)


def commands(top: pathlib.Path) -> Iterator[Command]:
  """Yields the commands; each may use the outcome of those before it."""
  books, task = top / 'books', top / 'task'
  _write_books(books)
  small_runs.write_task(task, train=64, dev=24)
  yield Command(
    'prepare',
    lambda output: [
      f'--input={books}',
      f'--output={output}',
      '--merges=60',
      '--workers=2',
      '--hold_out=*/0.txt',
      '--validation_fraction=0',
    ],
    _digest_files,
    all_or_nothing=True,
  )
  data, run = top / 'prepare-expected', top / 'pretrain-expected'
  yield Command(
    'pretrain',
    lambda output: [
      '--config=configs/pretrain.py:tiny',
      *_TINY,
      f'--config.data.path={data}',
      f'--workdir={output}',
    ],
    _digest_run,
  )
  yield Command(
    'finetune',
    lambda output: [
      '--config=configs/own_task.py:tiny',
      f'--config.init_from={run}',
      f'--config.data.path={task}',
      '--config.train.num_steps=120',
      '--config.train.eval_every=20',
      f'--workdir={output}',
    ],
    _digest_run,
  )
  yield Command(
    'convert',
    lambda output: [f'--input={run}', f'--output={output}'],
    _digest_files,
    all_or_nothing=True,
    repeats=False,
  )


def fail(counts: Counts, message: str) -> None:
  """Counts and prints a failure."""
  counts['failed'] += 1
  print(f'FAILED: {message}', file=sys.stderr, flush=True)


def check_result(
  command: Command,
  output: pathlib.Path,
  expected: pathlib.Path,
  counts: Counts,
) -> bool:
  """Runs a command to its end; returns True if its result is the expected."""
  stderr, code = '', 0
  if command.repeats or not output.exists():
    process = command.start(output)
    stderr, code = process.communicate()[1], process.returncode
  counts['runs'] += 1
  is_equal = not code and output.exists() and command.is_equal(output, expected)
  if is_equal:
    counts['equal'] += 1
  else:
    fail(
      counts,
      f'{output}: exit code {code}, or differs from {expected}; '
      f'{stderr[-500:]}',
    )
  return is_equal


def _digest_files(folder: pathlib.Path) -> str:
  """Hashes every file of a folder."""
  digest = hashlib.sha256()
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
  return digest.hexdigest()


def _digest_run(workdir: pathlib.Path) -> str:
  """Hashes the last weights, the scores and the metrics of a run."""
  digest = hashlib.sha256()
  params = checkpoint.read(str(workdir), best=False).params
  digest.update(json.dumps(_arrays(params), sort_keys=True).encode())
  scores = json.loads((workdir / 'scores.json').read_text())
  scores.pop('commit', None)  # someone may commit meanwhile
  digest.update(json.dumps(scores).encode())
  digest.update(json.dumps(small_runs.rows(workdir)).encode())
  return digest.hexdigest()


def _arrays(tree: object) -> object:
  """Replaces the arrays of nested mappings by their hashes."""
  if isinstance(tree, dict):
    return {key: _arrays(value) for key, value in tree.items()}
  return hashlib.sha256(tree.tobytes()).hexdigest()  # type: ignore[attr-defined]


def _write_books(folder: pathlib.Path) -> None:
  folder.mkdir()
  rng = random.Random(1)
  for number in range(12):
    words = (f'word{rng.randrange(200)}' for _ in range(20_000))
    (folder / f'{number}.txt').write_text(f'Book {number}. ' + ' '.join(words))
