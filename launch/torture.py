r"""Kills and interrupts real commands, fills their disks, and counts losses.

  python launch/torture.py --output=runs/torture            # `make torture`
  python launch/torture.py --output=runs/torture --trials=3 # the short form

For each command, an undisturbed run gives the expected result. Other runs

  are stopped at random moments with SIGKILL, SIGTERM or Ctrl-C, and started
    again until they are complete;
  write to a disk that becomes full, and are started again on a larger one;
  are started twice in the same folder.

A trial fails if the command prints a traceback, exits with an unexpected code,
or leaves something that it should not. A run fails if its result differs from
the expected one in a single bit.

Prints a table of counts; exits with 1 if any trial or run failed.
"""

import collections
import concurrent.futures
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import checkout  # noqa: F401
from absl import app, flags
from torture_commands import Command, Counts, check_result, commands, fail
from torture_places import fill_disk, start_twice

_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder for the runs; must be missing.', required=True
)
_TRIALS = flags.DEFINE_integer(
  'trials',
  70,
  'Times to stop each command. A third as many trials fill its disk, and as '
  'many start it twice.',
  lower_bound=1,
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'Seeds the choice of moments and signals.'
)
_JOBS = flags.DEFINE_integer(
  'jobs', 2, 'Commands to disturb at the same time.', lower_bound=1
)

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_STOPPED = 75  # the exit code of a command that a signal stopped
_STOPS = 6  # of one run at most
_COLUMNS = (
  'stops',
  *(s.name for s in _SIGNALS),
  'full disk',
  'two',
  'runs',
  'equal',
  'failed',
)


def main(argv: list[str]) -> None:
  """Runs all parts and prints the table."""
  del argv
  top = pathlib.Path(_OUTPUT.value).resolve()
  if top.exists():
    sys.exit(f'error: {top}: exists; use another --output or remove it')
  top.mkdir(parents=True)
  lasting = [(command, _run_alone(command, top)) for command in commands(top)]
  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    found = pool.map(lambda each: _torture(each[0], each[1], top), lasting)
    counts = {each[0].name: x for each, x in zip(lasting, found, strict=True)}
  print(_table(counts))
  bad = sum(each['failed'] for each in counts.values())
  print(f'{bad} failures')
  sys.exit(bool(bad))


def _run_alone(command: Command, top: pathlib.Path) -> float:
  """Makes the expected result; returns the seconds it took."""
  started = time.monotonic()
  process = command.start(top / f'{command.name}-expected')
  stderr = process.communicate()[1]
  if process.returncode:
    sys.exit(f'{command.name} fails when left alone: {stderr}')
  return time.monotonic() - started


def _torture(command: Command, longest: float, top: pathlib.Path) -> Counts:
  """Runs all trials of a command; returns counts of the outcomes."""
  counts: Counts = collections.Counter()
  rng = random.Random(f'{_SEED.value} {command.name}')
  expected = top / f'{command.name}-expected'
  while counts['stops'] < _TRIALS.value:
    output = top / f'{command.name}-{counts["runs"]}'
    for _ in range(min(_STOPS, _TRIALS.value - counts['stops'])):
      if output.exists() and not command.repeats:
        break  # it was complete when it was killed
      number = rng.choice(_SIGNALS)
      if not _stop(command, output, number, rng.uniform(0, longest), counts):
        break  # it was complete
    if check_result(command, output, expected, counts):
      shutil.rmtree(output)
    _say(command, counts, f'{counts["stops"]}/{_TRIALS.value} stops')
  trials = max(1, _TRIALS.value // 3)
  for trial in range(trials):
    fill_disk(command, top / f'{command.name}-full-{trial}', rng, counts)
    output = top / f'{command.name}-two-{trial}'
    start_twice(command, output, rng.uniform(0, longest / 2), counts)
    _say(command, counts, f'{trial + 1}/{trials} full disks, double starts')
  return counts


def _say(command: Command, counts: Counts, done: str) -> None:
  """Prints how far the trials of a command are."""
  failed = f'{counts["failed"]} failed'
  print(f'{command.name}: {done}, {failed}', file=sys.stderr, flush=True)


def _stop(
  command: Command,
  output: pathlib.Path,
  number: signal.Signals,
  seconds: float,
  counts: Counts,
) -> bool:
  """Starts a command and stops it; returns False if it was complete before."""
  before = _beside(output)  # a process that was killed leaves its folder
  process = command.start(output)
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
    fail(counts, f'{where}: exit code {code}: {stderr[-500:]}')
  elif 'Traceback' in stderr and not young:
    fail(counts, f'{where}: traceback: {stderr[-3000:]}')
  elif command.all_or_nothing and number != signal.SIGKILL:
    left = _beside(output) - before
    if left and not young:
      fail(counts, f'{where}: left {left}')
  return True


def _beside(output: pathlib.Path) -> set[tuple[str, int]]:
  """Returns the output and its unfinished folder: names and inodes."""
  found = output.parent.glob(f'{output.name}*')
  return {(path.name, path.stat().st_ino) for path in found}


def _table(counts: dict[str, Counts]) -> str:
  lines = [('command', *_COLUMNS), ('---',) * (1 + len(_COLUMNS))]
  for name, found in counts.items():
    lines.append((name, *(str(found[column]) for column in _COLUMNS)))
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


if __name__ == '__main__':
  app.run(main)
