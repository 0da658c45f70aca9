"""Runs commands on full disks, and twice in one folder; see torture.py.

A full disk is a file system in memory (tmpfs) that is too small, if the system
lets this process mount one, or a limit on the size of a file.
"""

import functools
import pathlib
import random
import shutil
import subprocess
import sys
import time

from torture_commands import Command, Counts, check_result, fail

# Mounts a file system of $1 bytes on $2 and runs a command; copies $2 to $3.
_ON_TMPFS = """
mount -t tmpfs -o size=$1 none "$2" || exit 125
place=$2 copy=$3
shift 3
"$@"
code=$?
cp -a "$place" "$copy"
exit $code
"""
_IN_NAMESPACE = ('unshare', '--map-root-user', '--mount', 'sh', '-c')
_LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.argv[2], sys.argv[2:])
"""
# A failure must not print any of these.
_UNWANTED = ('Traceback', 'Exception', 'Fatal', 'terminate called', '*** ')


def fill_disk(
  command: Command, place: pathlib.Path, rng: random.Random, counts: Counts
) -> None:
  """Runs a command on a disk that becomes full, then on a larger one.

  The first run must fail with one line, and the second must give the expected
  result. A command that writes all or nothing must leave nothing when it fails.

  Args:
    command: the command.
    place: a missing folder; removed if all is well.
    rng: chooses the size of the disk.
    counts: receives the outcomes.
  """
  expected = place.parent / f'{command.name}-expected'
  sizes = [p.stat().st_size for p in expected.rglob('*') if p.is_file()]
  place.mkdir()
  output = place / 'output'
  mounts = _can_mount() and rng.random() < 0.7
  # Only the largest files meet a limit on the size of a file.
  size = int((sum(sizes) if mounts else max(sizes)) * rng.uniform(0.01, 1))
  where = f'{command.name}, a full disk ({size} bytes, tmpfs {mounts})'
  if mounts:
    copy = place.with_name(f'{place.name}-copy')
    before = (*_IN_NAMESPACE, _ON_TMPFS, 'sh', f'{size}', f'{place}', f'{copy}')
    process = command.start(output, *before)
    stderr = process.communicate()[1]
    place.rmdir()
    copy.rename(place)
  else:
    process = command.start(output, sys.executable, '-c', _LIMITED, str(size))
    stderr = process.communicate()[1]
  if process.returncode == 0:  # it had enough space
    counts['enough'] += 1
  else:
    counts['full disk'] += 1
    fault = _fault(stderr, process.returncode, 1, 'free some')
    if not fault and command.all_or_nothing and any(place.iterdir()):
      fault = f'left {list(place.iterdir())}'
    if fault:
      fail(counts, f'{where}: {fault}')
  if process.returncode and check_result(command, output, expected, counts):
    shutil.rmtree(place)


def start_twice(
  command: Command, output: pathlib.Path, seconds: float, counts: Counts
) -> None:
  """Starts a command twice in one folder; one of them must be refused.

  Args:
    command: the command.
    output: a missing folder; removed if all is well.
    seconds: time between the two starts.
    counts: receives the outcomes.
  """
  counts['two'] += 1
  where = f'{command.name}, a second process after {seconds:.2f} s'
  started = [command.start(output)]
  time.sleep(seconds)
  started.append(command.start(output))
  ended = [(p.communicate()[1], p.returncode) for p in started]
  refused = [each for each in ended if each[1]]
  if len(refused) > 1:
    fail(counts, f'{where}: both ended: {ended}')
  for stderr, code in refused:
    fault = _fault(stderr, code, 2, f'{output}: ')
    if fault:
      fail(counts, f'{where}: {fault}')
  expected = output.parent / f'{command.name}-expected'
  if check_result(command, output, expected, counts):
    shutil.rmtree(output)


def _fault(stderr: str, code: int, right: int, words: str) -> str:
  """Describes what is wrong with how a command ended; '' if nothing is."""
  errors = [x for x in stderr.splitlines() if x.startswith('error: ')]
  if code != right:
    return f'exit code {code}: {stderr[-500:]}'
  if len(errors) != 1 or words not in errors[0]:
    return f'not one line with "{words}": {stderr[-500:]}'
  if any(word in stderr for word in _UNWANTED):
    return f'more than a line: {stderr[-2000:]}'
  return ''


@functools.cache
def _can_mount() -> bool:
  try:
    done = subprocess.run(
      [*_IN_NAMESPACE, 'mount -t tmpfs none /mnt'],
      check=False,
      capture_output=True,
    )
  except OSError:
    return False
  return done.returncode == 0
