"""Tests the message about a slow compilation."""

import threading
import time

from gpt1_jax.train import pulse


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
