"""Sends signals to commands while they start, work and end."""

import os

import pytest

from tests.support import commands


def assert_stopped(done, name):
  assert done.returncode == 75, done.stderr
  assert done.stderr == f'stopped by {name}: run the same command again\n'


# sitecustomize.py: Ctrl-C while the first library is imported.
EARLY = """
import os, signal, sys, time
class Finder:
  def find_spec(self, name, path=None, target=None):
    if name == 'absl':
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(20)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
  'program',
  [
    *('prepare', 'pretrain', 'finetune', 'predict', 'evaluate'),
    *('generate', 'serve', 'convert', 'report'),
    *(
      f'launch/{file.name}'
      for file in sorted((commands.ROOT / 'launch').glob('*.py'))
      if 'cli.run(main' in file.read_text()
    ),
  ],
)
def test_a_program_handles_signals_before_its_imports(program, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(EARLY)
  done = commands.run(program, PYTHONPATH=str(tmp_path))
  assert_stopped(done, 'SIGINT')


# Sends SIGINT while a command imports jaxlib; tells if that raises anything.
IMPORTS = """
import os, runpy, signal, sys, time
class Finder:
  def find_spec(self, name, *_):
    if name == 'jaxlib._jax':
      try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
      except BaseException:
        print('raised')
        raise
sys.meta_path.insert(0, Finder())
from gpt1_jax import interrupts
interrupts.install()
name, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(f'gpt1_jax.{name}', run_name='__main__', alter_sys=True)
"""


@pytest.mark.parametrize(
  'words',
  [
    ('report', '--runs=models', '--output=report'),
    (
      'finetune',
      '--config=configs/finetune.py:cola',
      '--config.init_from=models/mini',
      '--config.data.path=glue',
      '--workdir=run',
    ),
  ],
)
def test_a_signal_during_the_import_of_jax_raises_nothing_there(words):
  done = commands.run('-c', IMPORTS, *words)
  assert done.returncode == 75, done.stderr
  assert done.stdout == ''
  assert done.stderr.splitlines()[-1].startswith('stopped by SIGINT')


# sitecustomize.py: Ctrl-C reaches a worker while Python starts it.
BORN = """
import os, signal, sys
if '--multiprocessing-fork' in sys.orig_argv:
  os.kill(os.getpid(), signal.SIGINT)
"""


WORKS = """
import os
from gpt1_jax.corpus.workers import Workers
print(*Workers(1).map(abs, [-1, -2]), flush=True)
os._exit(0)  # as a second Ctrl-C does
"""


def test_workers_neither_hear_ctrl_c_nor_speak_of_what_they_leave(tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(BORN)
  paths = f'{tmp_path}{os.pathsep}{commands.ROOT}'
  done = commands.run('-c', WORKS, PYTHONPATH=paths)
  assert (done.stdout, done.stderr) == ('1 2\n', '')


HIDES = """
import os, signal, time
from gpt1_jax import cli
def main():
  try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(100)
  except BaseException:
    raise ValueError('while checking equality of metadata fields') from None
cli.run(main)
"""


def test_a_stop_that_a_library_hides_is_found():
  """As XLA does where it compares trees with Python's own functions."""
  done = commands.run_forked(HIDES)
  assert_stopped(done, 'SIGTERM')


IGNORES = """
import os, signal, time
from gpt1_jax import cli
class Ignores:
  def __del__(self):
    os.kill(os.getpid(), signal.NAME)
    time.sleep(100)
def main():
  thing = Ignores()
  del thing
  time.sleep(100)
cli.run(main)
"""


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_stop_that_python_ignores_is_raised_again(name):
  done = commands.run_forked(IGNORES.replace('NAME', name))
  assert_stopped(done, name)


STOPS = """
import atexit, os, signal, time
from gpt1_jax import cli
import jax
atexit.register(os.abort)  # as if objects that XLA still uses were freed
def main():
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(100)
cli.run(main)
"""


def test_a_stopped_command_leaves_out_the_exit_of_python():
  done = commands.run_forked(STOPS)
  assert_stopped(done, 'SIGTERM')


HANGS_UP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
from gpt1_jax import cli, interrupts
def main():
  os.kill(os.getpid(), signal.SIGHUP)
  if not os.fork():  # as a worker
    os.kill(os.getpid(), signal.SIGHUP)
    os._exit(3)
  assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
  interrupts.release()  # as a server does
  os.kill(os.getpid(), signal.SIGHUP)
  print('alive')
cli.run(main)
"""


def test_a_command_under_nohup_outlives_its_terminal():
  assert commands.succeed('-c', HANGS_UP) == 'alive\n'
