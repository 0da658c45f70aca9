"""Signals and kills the processes of `prepare`, and measures their memory."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from gpt1_jax.corpus import shards, workers
from gpt1_jax.errors import UserError
from tests.support import books as library, commands
from tests.support.preparations import FLAGS, prepare, refused


def _children(pid: int) -> list[int]:
  found = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(pid)],
    check=False,
    capture_output=True,
    text=True,
  )
  return [int(word) for word in found.stdout.split()]


def _write_rows(path: pathlib.Path, count: int) -> None:
  words = library.made_up_words(0, 5000)
  rows = (json.dumps({'text': f'{i} {words}'}) for i in range(count))
  path.write_text('\n'.join(rows))


def _start_cleaning(
  tmp_path: pathlib.Path, ended
) -> tuple[subprocess.Popen[str], tuple[str, ...]]:
  """Starts a run of r.jsonl, waits until it cleans; returns its flags, too."""
  path = tmp_path / 'r.jsonl'
  _write_rows(path, 1200)
  flags = (
    f'--input={path}',
    f'--output={tmp_path}/out',
    *FLAGS,
    '--workers=2',
  )
  process = ended(commands.start('prepare', *flags))
  pattern = 'out.incomplete/out/spool/*.clean'
  commands.await_until(process, lambda: list(tmp_path.glob(pattern)))
  return process, flags


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_leaves_nothing(tmp_path, number, ended):
  process, _ = _start_cleaning(tmp_path, ended)
  process.send_signal(number)
  _, err = process.communicate()
  assert process.returncode == 75
  assert 'Traceback' not in err
  assert os.listdir(tmp_path) == ['r.jsonl']


def test_a_killed_run_leaves_a_folder_that_the_next_replaces(tmp_path, ended):
  out, left = tmp_path / 'out', tmp_path / 'out.incomplete'
  process, flags = _start_cleaning(tmp_path, ended)
  deadline = time.monotonic() + 60
  assert 'another process is writing it' in refused(*flags)
  children = _children(process.pid)
  assert len(children) >= 2
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not out.exists()
  assert left.exists()
  while any(map(commands.is_alive, children)):  # workers end with their parent
    assert time.monotonic() < deadline
    time.sleep(0.05)
  (left / 'out' / 'stale').write_text('of the killed run')
  _write_rows(tmp_path / 'r.jsonl', 20)
  prepare(*flags)
  assert not left.exists()
  assert not (out / 'stale').exists()
  shards.verify(out)


def _die(job: int) -> int:
  if job == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return job


def test_a_killed_worker_is_reported():
  with (
    workers.Workers(1) as pool,
    pytest.raises(UserError, match='a worker process was killed'),
  ):
    list(pool.map(_die, range(9)))


def test_workers_take_items_only_as_fast_as_results_are_taken():
  taken = []

  def items():
    for i in range(50):
      taken.append(i)
      yield i

  with workers.Workers(2) as pool:
    for i, result in enumerate(pool.map(abs, items())):
      assert result == i
      assert len(taken) <= i + 3 * 2
  assert len(taken) == 50


_PEAK = """
import resource, sys
from gpt1_jax import cli, prepare
if __name__ == '__main__':
  try:
    cli.run(prepare.main)
  except SystemExit:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
      print('peak', resource.getrusage(who).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
  """Eight times the text has the same peak, as the command promises."""
  script = tmp_path / 'peak.py'
  script.write_text(_PEAK)
  pages = [library.made_up_words(seed, 3000) for seed in range(16)]
  peaks = []
  for megabytes in (5, 40):
    path = tmp_path / f'{megabytes}.jsonl'
    with path.open('w') as file:
      for i in range(megabytes * 1_000_000 // (4 * len(pages[0]))):
        draw = random.Random(i)
        text = '\n'.join([str(i), *draw.sample(pages, 4)])
        file.write(json.dumps({'text': text}) + '\n')
    done = subprocess.run(
      [
        *(sys.executable, script, f'--input={path}', '--workers=2'),
        *(f'--output={tmp_path}/out{megabytes}', '--merges=50'),
      ],
      env={**os.environ, 'PYTHONPATH': str(commands.ROOT)},
      check=True,
      capture_output=True,
      text=True,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith('peak')]
    peaks.append([int(line.split()[1]) / 1000 for line in lines])
  (parent, worker), (parent_8, worker_8) = peaks
  assert parent_8 < parent + 12, peaks
  assert worker_8 < worker + 12, peaks
