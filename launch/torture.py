r"""Kills and signals real commands at random moments, and counts losses.

  python launch/torture.py --output=runs/torture            # `make torture`
  python launch/torture.py --output=runs/torture --trials=6 # the short form

For each command, an undisturbed run gives the expected result. Other runs
are stopped at random moments with SIGKILL, SIGTERM or Ctrl-C and started again
until they are complete. A trial is one stop. It fails if the command prints a
traceback, exits with an unexpected code, or leaves something that it should
not. A run fails if its result differs from the expected one in a single bit.

Prints a table of counts; exits with 1 if any trial or run failed.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import checkout
from absl import app, flags

from gpt1_jax.train import checkpoint, telemetry

_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder for the runs; must be missing.', required=True
)
_TRIALS = flags.DEFINE_integer(
  'trials', 70, 'Stops of each command.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seeds the moments and the signals.')

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_STOPPED = 75  # the exit code of a command that a signal stopped
_STOPS = 6  # of one run at most
_TIMED = ('tokens_per_second', 'seconds', 'utilisation')  # keys of metrics
_TINY = (
  '--config.model.n_layer=1',
  '--config.model.n_embd=32',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=4',
  '--config.train.num_steps=600',
  '--config.train.eval_every=200',
  '--config.train.checkpoint_every=50',
)


@dataclasses.dataclass(frozen=True)
class Command:
  """A command to stop.

  Attributes:
    name: its name.
    words: its arguments, for an output folder.
    result: digest of what an output folder holds.
    all_or_nothing: True if a signal must leave no output at all.
  """

  name: str
  words: Callable[[pathlib.Path], list[str]]
  result: Callable[[pathlib.Path], str]
  all_or_nothing: bool = False


def main(argv: list[str]) -> None:
  """Runs all parts and prints the table."""
  del argv
  top = pathlib.Path(_OUTPUT.value).resolve()
  if top.exists():
    sys.exit(f'error: {top}: exists; give another --output or remove it')
  top.mkdir(parents=True)
  counts = {
    command.name: _torture(command, top, random.Random(_SEED.value))
    for command in _commands(top)
  }
  print(_table(counts))
  bad = sum(found['failed'] for found in counts.values())
  print(f'{bad} failures')
  sys.exit(bool(bad))


def _commands(top: pathlib.Path) -> Iterator[Command]:
  """Yields the commands; each may use the outcome of those before it."""
  books, task = top / 'books', top / 'task'
  _write_books(books)
  _write_task(task)
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
  data = top / 'prepare-expected'
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
      f'--config.init_from={top}/pretrain-expected',
      f'--config.data.path={task}',
      '--config.train.num_steps=120',
      '--config.train.eval_every=20',
      f'--workdir={output}',
    ],
    _digest_run,
  )


def _torture(
  command: Command, top: pathlib.Path, rng: random.Random
) -> collections.Counter[str]:
  """Stops a command `--trials` times; returns counts of the outcomes."""
  counts: collections.Counter[str] = collections.Counter()
  expected = top / f'{command.name}-expected'
  started = time.monotonic()
  process = _start(command, expected)
  stderr = process.communicate()[1]
  if process.returncode:
    sys.exit(f'{command.name} fails when left alone: {stderr}')
  longest = time.monotonic() - started
  while counts['stops'] < _TRIALS.value:
    output = top / f'{command.name}-{counts["runs"]}'
    for _ in range(min(_STOPS, _TRIALS.value - counts['stops'])):
      number = rng.choice(_SIGNALS)
      if not _stop(command, output, number, rng.uniform(0, longest), counts):
        break  # it was complete
    process = _start(command, output)
    stderr = process.communicate()[1]
    counts['runs'] += 1
    if process.returncode or command.result(output) != command.result(expected):
      _fail(counts, f'{output}: differs from {expected}; {stderr[-500:]}')
    else:
      counts['equal'] += 1
      shutil.rmtree(output)
  return counts


def _stop(
  command: Command,
  output: pathlib.Path,
  number: signal.Signals,
  seconds: float,
  counts: collections.Counter[str],
) -> bool:
  """Starts a command and stops it; returns False if it was complete before."""
  before = _beside(output)  # a process that was killed leaves its folder
  process = _start(command, output)
  try:
    process.wait(seconds)
  except subprocess.TimeoutExpired:
    process.send_signal(number)
  stderr = process.communicate()[1]
  code = process.returncode
  if code == 0:
    return False
  counts['stops'] += 1
  counts[number.name] += 1
  # Python itself starts for some milliseconds before it handles signals.
  young = (-number, 1) if seconds < 1 else ()
  right = (-number,) if number == signal.SIGKILL else (_STOPPED, *young)
  where = f'{command.name}, {number.name} after {seconds:.2f} s'
  if code not in right:
    _fail(counts, f'{where}: exit code {code}: {stderr[-500:]}')
  elif 'Traceback' in stderr and not young:
    _fail(counts, f'{where}: traceback: {stderr[-500:]}')
  elif command.all_or_nothing and number != signal.SIGKILL:
    left = _beside(output) - before
    if left and not young:
      _fail(counts, f'{where}: left {left}')
  return True


def _beside(output: pathlib.Path) -> set[tuple[str, int]]:
  """Returns the output and its unfinished folder: names and inodes."""
  found = output.parent.glob(f'{output.name}*')
  return {(path.name, path.stat().st_ino) for path in found}


def _start(command: Command, output: pathlib.Path) -> subprocess.Popen[str]:
  return subprocess.Popen(
    [sys.executable, '-m', f'gpt1_jax.{command.name}', *command.words(output)],
    cwd=checkout.ROOT,
    env=checkout.environment(),
    text=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )


def _fail(counts: collections.Counter[str], message: str) -> None:
  counts['failed'] += 1
  print(f'FAILED: {message}', file=sys.stderr, flush=True)


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
  digest.update((workdir / 'scores.json').read_bytes())
  for row in telemetry.read_rows(workdir / 'metrics.jsonl'):
    kept = {key: value for key, value in row.items() if key not in _TIMED}
    digest.update(json.dumps(kept).encode())
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


def _write_task(folder: pathlib.Path) -> None:
  folder.mkdir()
  rng = random.Random(2)
  for split, count in (('train', 64), ('dev', 24)):
    rows = []
    for _ in range(count):
      label = rng.choice(('good', 'bad'))
      rows.append({'text': f'word{rng.randrange(200)} {label}', 'label': label})
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / f'{split}.jsonl').write_text(text)


def _table(counts: dict[str, collections.Counter[str]]) -> str:
  columns = ('stops', *(s.name for s in _SIGNALS), 'runs', 'equal', 'failed')
  lines = [' | '.join(('command', *columns)), ' | '.join(['---'] * 8)]
  for name, found in counts.items():
    cells = (str(found[column]) for column in columns)
    lines.append(' | '.join((name, *cells)))
  return '\n'.join(f'| {line} |' for line in lines)


if __name__ == '__main__':
  app.run(main)
