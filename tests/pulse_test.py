"""Tests the messages about a stuck run and a slow compilation."""

import subprocess
import sys
import threading
import time

from gpt1_jax.train import pulse
from tests.support import commands


def test_a_slow_compilation_is_explained_once(monkeypatch, capsys):
  monkeypatch.setattr(pulse, '_SLOW', 0.1)
  watch = pulse._Watch(minutes=0.01)
  watch.compiling = True
  thread = threading.Thread(target=watch.check)
  thread.start()
  time.sleep(0.5)
  watch.done.set()
  thread.join()
  (line,) = capsys.readouterr().err.splitlines()
  assert 'not an error' in line


STALLS = """
import time
from gpt1_jax.train import pulse
with pulse.watched(0.02):
  for _ in range(4):
    pulse.beat('reading a batch')
    time.sleep(0.6)
  print('alive', flush=True)
  time.sleep(100)
"""


def test_a_stuck_run_ends_with_its_stacks():
  done = subprocess.run(
    [sys.executable, '-c', STALLS],
    cwd=commands.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 75
  assert done.stdout == 'alive\n'
  assert 'File "<string>", line 9' in done.stderr  # the stack of the thread
  (line,) = [x for x in done.stderr.splitlines() if x.startswith('error:')]
  assert 'host 0 of 1' in line
  assert 'while reading a batch' in line
