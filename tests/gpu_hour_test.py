"""The GPU hour: slices that stop and continue, with stand-in commands."""

import json
import os
import subprocess
import sys
import time

import pytest
from absl import flags

from tests.support.commands import ROOT

sys.path.insert(0, str(ROOT / 'launch'))
import gpu_hour

STAGES = ['tests', 'benchmark', 'pretrain', 'sample', *gpu_hour.TASKS, 'report']


@pytest.fixture
def started(monkeypatch):
  """Names of the commands that ran; 'pretrain' ends its slice once."""
  started = []

  def call(hour, name, *words, **environment):
    if name == 'pretrain' and 'pretrain' not in started:
      started.append(name)
      raise gpu_hour.OutOfTimeError
    started.append(name)
    return name != 'rte'  # one stage fails

  monkeypatch.setattr(gpu_hour.Hour, 'call', call)
  monkeypatch.setattr(gpu_hour.Hour, 'updates', lambda *_: 10)
  for name in ('corpus', 'tasks'):
    monkeypatch.setattr(flags.FLAGS[name], 'value', name)
  flags.FLAGS.mark_as_parsed()  # other tests of this process define more
  return started


def test_slices_continue_and_every_stage_is_accounted_for(tmp_path, started):
  hour = gpu_hour.Hour(tmp_path, end=0.0)
  with pytest.raises(gpu_hour.OutOfTimeError):
    hour.run()
  hour.keep()
  states = json.loads((tmp_path / 'results' / 'stages.json').read_text())
  assert states == {
    **dict.fromkeys(STAGES, 'not run'),
    'tests': 'passed',
    'benchmark': 'passed',
  }
  hour.run()
  assert started == [*STAGES[:3], *STAGES[2:]]
  states = json.loads((tmp_path / 'results' / 'stages.json').read_text())
  assert states == {**dict.fromkeys(STAGES, 'passed'), 'rte': 'failed'}


def test_a_command_that_outlasts_the_slice_is_told_to_stop(tmp_path):
  script = (
    'import signal, sys, time\n'
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\n"
    "print('ready', flush=True)\n"
    'time.sleep(60)\n'
  )
  start = time.monotonic()
  hour = gpu_hour.Hour(tmp_path, end=start + 2.0)
  with pytest.raises(gpu_hour.OutOfTimeError):
    hour.call('stage', '-c', script)
  assert time.monotonic() - start < 30
  assert (tmp_path / 'stage.log').read_text() == 'ready\nsaved\n'


def test_the_shell_script_explains_itself():
  done = subprocess.run(
    [str(ROOT / 'launch' / 'gpu_hour.sh')], capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith('error: launch/gpu_hour.sh pack CORPUS TASKS')


STUB = """#!/bin/sh
case "$*" in
  *'pip download'*) head -c {wheels}M /dev/zero > "$GPU_HOUR/wheels/x.whl" ;;
  *'pip '* | *'site; '*) ;;
  *gpu_hour.py*) echo "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


def packed(tmp_path, wheels=0):
  """Packs a small corpus and so many MiB of wheels; returns the process."""
  stub = tmp_path / 'bin' / 'python3'
  corpus, tasks = tmp_path / 'shards, v1', tmp_path / 'glue'
  for folder in (stub.parent, corpus, tasks / 'RTE'):
    folder.mkdir(parents=True, exist_ok=True)
  stub.write_text(STUB.format(python=sys.executable, wheels=wheels))
  stub.chmod(0o755)
  (corpus / 'train.bin').write_bytes(os.urandom(2**20))
  (tasks / 'RTE' / 'dev.tsv').write_text('a\tb\n')
  return script(tmp_path, 'pack', corpus, tasks)


def script(tmp_path, *words):
  path = f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}'
  return subprocess.run(
    [ROOT / 'launch' / 'gpu_hour.sh', *words],
    env={
      **os.environ,
      **{'PATH': path, 'GPU_HOUR': str(tmp_path / 'packed')},
      'XZ_OPT': '-0',  # what is packed is random
    },
    capture_output=True,
    text=True,
  )


def test_run_unpacks_what_pack_compressed(tmp_path):
  assert packed(tmp_path).returncode == 0
  there = tmp_path / 'packed'
  assert sorted(os.listdir(there)) == ['input.tar.xz', 'wheels']
  done = script(tmp_path, 'run', '--minutes=1')
  assert done.returncode == 0, done.stderr
  assert f'--corpus={there}/corpus --tasks={there}/tasks --minutes=1' in (
    done.stdout
  )
  corpus = (tmp_path / 'shards, v1' / 'train.bin').read_bytes()
  assert (there / 'corpus' / 'train.bin').read_bytes() == corpus
  assert (there / 'tasks' / 'RTE' / 'dev.tsv').read_text() == 'a\tb\n'


def test_more_than_60_mib_are_refused(tmp_path):
  done = packed(tmp_path, wheels=60)
  assert done.returncode == 2
  assert 'exceeds 60 MiB; prepare fewer books' in done.stderr
