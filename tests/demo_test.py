"""The demo shows how far a stage is, also in a file."""

import re

from tests.support import commands

# Runs in a process of its own, since its flags have the names of others.
SCRIPT = """
import io, pathlib, subprocess, sys
import demo
from rich import console

STAGE = '''
import sys, time
print('pretrain 20/60  loss [5.01]', file=sys.stderr, flush=True)
time.sleep(2)
print('done')
'''
demo._SECONDS_BETWEEN_LINES = 0.2
folder = pathlib.Path(sys.argv.pop())
log = folder / 'log'
with log.open('w') as file:
  print('$ a command', file=file, flush=True)
  with subprocess.Popen(
    [sys.executable, '-c', STAGE],
    stdout=subprocess.PIPE,
    stderr=file,
    text=True,
  ) as process:
    screen = console.Console(file=sys.stdout)
    assert demo.Demo(folder, 0, screen).wait(process, log) == 'done\\n'
"""


def test_a_file_gets_the_progress_of_a_stage(tmp_path):
  done = commands.run('-c', SCRIPT, tmp_path)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) > 1
  assert re.fullmatch(r'\d+ s: pretrain 20/60  loss \[5.01\]', lines[-1])
