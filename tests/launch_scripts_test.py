"""Every launch/*.py runs from any folder, without gpt1_jax being installed."""

import os
import subprocess
import sys

import pytest

from tests.support import commands

LAUNCH = commands.ROOT / 'launch'
SCRIPTS = {
  'aot_compile.py': '--topology',
  'benchmark.py': '--suite',
  'demo.py': '--seed',
  'gpu_hour.py': '--corpus',
  'local_cluster.py': '--processes',
  'malformed.py': '--inputs',
  'record.py': '--books',
  'scaling.py': '--output',
  'sweep.py': '--ablations',
  'torture.py': '--trials',
}
# An editable install finds packages with a hook; without hooks and PYTHONPATH
# only the script itself can put gpt1_jax and configs on the path.
WITHOUT_HOOKS = """
import runpy, sys
def is_own(finder): return 'editable' not in repr(finder).lower()
sys.meta_path = list(filter(is_own, sys.meta_path))
sys.path_hooks = list(filter(is_own, sys.path_hooks))
script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path[0] = script.rpartition('/')[0]
runpy.run_path(script, run_name='__main__')
"""


def test_every_script_with_a_main_is_listed():
  scripts = {
    path.name
    for path in LAUNCH.glob('*.py')
    if "__name__ == '__main__'" in path.read_text()
  }
  assert scripts == set(SCRIPTS)


@pytest.mark.parametrize('name', SCRIPTS)
def test_help(name, tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  done = subprocess.run(
    [sys.executable, '-c', WITHOUT_HOOKS, str(LAUNCH / name), '--help'],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.stderr == ''
  # absl itself ends with 1 after --help.
  assert done.returncode in (0, 1)
  assert f'  {SCRIPTS[name]}: ' in done.stdout.replace('[no]', '')
