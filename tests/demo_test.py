"""The demo shows how far a stage is, also in a file."""

import io
import re
import subprocess
import sys

import demo
from rich import console

STAGE = """
import sys, time
print('pretrain 20/60  loss [5.01]', file=sys.stderr, flush=True)
time.sleep(2)
print('done')
"""


def test_a_file_gets_the_progress_of_a_stage(tmp_path, monkeypatch):
  monkeypatch.setattr(demo, '_SECONDS_BETWEEN_LINES', 0.2)
  screen = console.Console(file=io.StringIO())
  log = tmp_path / 'log'
  with log.open('w') as file:
    print('$ a command', file=file, flush=True)
    with subprocess.Popen(
      [sys.executable, '-c', STAGE],
      stdout=subprocess.PIPE,
      stderr=file,
      text=True,
    ) as process:
      assert demo.Demo(tmp_path, 0, screen).wait(process, log) == 'done\n'
  lines = screen.file.getvalue().splitlines()
  assert len(lines) > 1
  assert re.fullmatch(r'\d+ s: pretrain 20/60  loss \[5.01\]', lines[-1])
