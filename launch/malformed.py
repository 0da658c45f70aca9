r"""Feeds malformed inputs to every reader of files that a user gives.

  python launch/malformed.py                    # 123,700 inputs, `make torture`
  python launch/malformed.py --inputs=2000      # the short form
  python launch/malformed.py --reader=.jsonl --first=812 --inputs=1  # one again

An input is a valid file, changed at random. Its reader, its number and
--random_seed determine it, so every fault can be reproduced. The readers run in
one process and are called as the commands call them. Each input must be
accepted with the right value or refused in one line. Anything else is printed
as a fault: another exception, a wrong value, more than 500 MB of memory or
20 s, a crash.

Prints a table of counts; exits with 1 if there was any fault.
"""

import collections
import faulthandler
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import checkout
from absl import app, flags

if TYPE_CHECKING:
  from file_readers import Entry, Reader

_INPUTS = flags.DEFINE_integer(
  'inputs',
  None,
  'Total number of inputs; default: all that `make torture` reads.',
)
_READER = flags.DEFINE_string('reader', '', 'Only this reader.')
_FIRST = flags.DEFINE_integer(
  'first', 0, 'Number of the first input to read; with --reader.'
)
_RANDOM_SEED = flags.DEFINE_integer('random_seed', 0, 'Seeds the changes.')
_WORKER = flags.DEFINE_string(
  'worker', '', 'Internal: folder of the process that reads.'
)
_ONLY = flags.DEFINE_bool('only', False, 'Internal: read with one reader.')

_MEMORY = 500_000_000  # bytes that one input may take
_MOST = 12_000_000_000  # bytes that the process may take
_SECONDS = 20  # of processor time
_SILENCE = 100  # seconds after which a process that reads is ended
_LONGEST = 2000  # characters of a line of error


class SlowError(BaseException):
  """Raised if an input took too long."""


def main(argv: list[str]) -> None:
  """Runs a reading process, restarted after each crash; prints a table."""
  del argv
  if _WORKER.value:
    _work(pathlib.Path(_WORKER.value))
  counts: dict[str, collections.Counter[str]] = {}
  with tempfile.TemporaryDirectory(prefix='gpt1_jax-') as name:
    folder = pathlib.Path(name)
    at = folder / 'at'
    reader, first = _READER.value, _FIRST.value
    while True:
      code = _run_worker(folder, reader, first)
      _add_counts(folder, counts)
      if code == 0:
        break
      if not at.exists():
        sys.exit(f'error: nothing was read (exit code {code})')
      reader, number, found = json.loads(at.read_text())
      first = number + 1
      counts.setdefault(reader, collections.Counter()).update(found)
      counts[reader]['fault'] += 1
      _say(reader, number, f'the process ended with exit code {code}')
  print(_table(counts))
  faults = sum(found['fault'] for found in counts.values())
  print(f'{faults} faults')
  sys.exit(bool(faults))


def _run_worker(folder: pathlib.Path, reader: str, first: int) -> int:
  """Reads the inputs from `first`; returns the exit code, -9 if it hung."""
  words = [
    f'--worker={folder}',
    f'--reader={reader}',
    f'--first={first}',
    f'--random_seed={_RANDOM_SEED.value}',
    f'--only={bool(_READER.value)}',
  ]
  if _INPUTS.value is not None:
    words.append(f'--inputs={_INPUTS.value}')
  environment = checkout.environment(checkout.ROOT / 'launch')
  process = subprocess.Popen(
    [sys.executable, __file__, *words],
    env=environment | {'HOME': str(folder), 'JAX_PLATFORMS': 'cpu'},
  )
  at, before, since = folder / 'at', '', time.monotonic()
  while process.poll() is None:
    time.sleep(0.5)
    now = at.read_text() if at.exists() else ''
    if now != before:
      before, since = now, time.monotonic()
    if now and time.monotonic() - since > _SILENCE:
      process.kill()
  return process.returncode


def _add_counts(
  folder: pathlib.Path, counts: dict[str, collections.Counter[str]]
) -> None:
  file = folder / 'counts'
  for line in file.read_text().splitlines() if file.exists() else ():
    name, found = json.loads(line)
    counts.setdefault(name, collections.Counter()).update(found)
  file.unlink(missing_ok=True)


def _table(counts: dict[str, collections.Counter[str]]) -> str:
  columns = ('accepted', 'refused', 'fault')
  lines = [
    '| reader | inputs | accepted | refused | faults |',
    '|---' * 5 + '|',
  ]
  total: collections.Counter[str] = collections.Counter()
  for name, found in counts.items():
    total.update(found)
    cells = (f'{found[column]:,}' for column in columns)
    lines.append(f'| {name} | {found.total():,} | {" | ".join(cells)} |')
  cells = (f'{total[column]:,}' for column in columns)
  lines.append(f'| all | {total.total():,} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _say(reader: str, number: int, fault: str) -> None:
  print(
    f'FAULT: --reader={reader!r} --first={number} --inputs=1 '
    f'--random_seed={_RANDOM_SEED.value}: {fault}',
    flush=True,
  )


def _work(folder: pathlib.Path) -> NoReturn:
  """Feeds inputs to all readers, or to --reader, and writes the counts."""
  # Without a limit, one input could exhaust the machine's memory.
  resource.setrlimit(resource.RLIMIT_DATA, (_MOST, _MOST))
  faulthandler.enable(os.fdopen(os.dup(2), 'w'))
  os.dup2(os.open(folder / 'stderr', os.O_WRONLY | os.O_CREAT), 2)  # warnings
  signal.signal(signal.SIGPROF, _end_trial)
  from malformed_seeds import entries  # imports jax

  with tempfile.TemporaryDirectory(dir=folder) as name:
    found = list(entries(pathlib.Path(name)))
    names = [name for name, _, _ in found]
    if _READER.value:
      if _READER.value not in names:
        sys.exit(f'error: --reader: choose one of {", ".join(names)}')
      begin = names.index(_READER.value)
      found = found[begin : begin + 1] if _ONLY.value else found[begin:]
    first = _FIRST.value
    for entry, count in _shared_out(found):
      _read_all(folder, entry, range(first, first + count))
      first = 0
  sys.stdout.flush()
  os._exit(0)  # without waiting for threads


def _shared_out(found: list['Entry']) -> Iterator[tuple['Entry', int]]:
  """Yields each reader and its number of inputs."""
  whole = sum(share for _, share, _ in found)
  inputs = _INPUTS.value
  for entry in found:
    share = entry[1]
    count = 1000 * share if inputs is None else inputs * share / whole
    yield entry, max(1, round(count))


def _read_all(folder: pathlib.Path, entry: 'Entry', numbers: range) -> None:
  name, _, reader = entry
  counts: collections.Counter[str] = collections.Counter()
  highest = _peak()
  with (folder / 'at').open('w+') as at:
    for number in numbers:
      at.seek(0)
      at.truncate()
      at.write(json.dumps([name, number, counts]))
      at.flush()
      outcome, fault = _read(reader, f'{_RANDOM_SEED.value} {name} {number}')
      peak = _peak()
      if peak - highest > _MEMORY:
        outcome, fault = 'fault', f'{(peak - highest) >> 20} MB of memory'
      if peak - highest > _MEMORY / 20:
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # resets the peak
        peak = _peak()
      highest = peak
      counts[outcome] += 1
      if fault:
        _say(name, number, fault)
  with (folder / 'counts').open('a') as file:
    file.write(json.dumps([name, counts]) + '\n')
  print(f'{name}: {dict(counts)}', flush=True)


def _read(reader: 'Reader', seed: str) -> tuple[str, str]:
  """Reads an input; returns the outcome, and the fault if it is one."""
  from gpt1_jax.errors import UserError

  rng = random.Random(seed)
  signal.setitimer(signal.ITIMER_PROF, _SECONDS)
  try:
    reader(rng)
  except UserError as error:
    line = str(error)
    if line[:1].isdigit():  # of a configuration: a line for each setting
      line = line.replace('\n  ', ' ')
    if '\n' in line or not line or len(line) > _LONGEST:
      return 'fault', f'not one short line: {line[:300]!r}'
    return 'refused', ''
  except OSError as error:
    if error.filename is None:
      return 'fault', traceback.format_exc(-4)[-2000:]
    return 'refused', ''  # cli.run prints a line with the name
  except SlowError:
    return 'fault', f'more than {_SECONDS} s:\n{traceback.format_exc(-4)}'
  except Exception:
    return 'fault', traceback.format_exc(-4)[-2000:]
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
  return 'accepted', ''


def _end_trial(number: int, frame: object) -> NoReturn:
  del number, frame
  raise SlowError


def _peak() -> int:
  """Returns the largest resident size since it was last reset, in bytes."""
  status = pathlib.Path('/proc/self/status').read_text()
  return int(status.partition('VmHWM:')[2].split()[0]) * 1024


if __name__ == '__main__':
  app.run(main)
