"""Commands that compute have large pages, and free what they do not need."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from gpt1_jax import memory

VARIABLE = 'GLIBC_TUNABLES'


def plain():
  return {k: v for k, v in os.environ.items() if k != VARIABLE}


@pytest.fixture
def tuned():
  out = memory.environment(plain())
  if VARIABLE not in out:
    pytest.skip('the C library is not glibc')
  return out


def run(env, *words):
  done = subprocess.run(
    [sys.executable, *words],
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_a_block_has_large_pages_and_goes_back_when_freed(tuned):
  allowed = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
  if not allowed.exists() or '[never]' in allowed.read_text():
    pytest.skip('this kernel gives no pages of 2 MB')
  program = """
import ctypes, json, resource
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
SIZE = 1 << 26
def resident():
  with open('/proc/self/statm') as file:
    return int(file.read().split()[1]) * resource.getpagesize()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = resident(), faults()
for _ in range(4):
  block = ctypes.c_void_p()
  assert libc.posix_memalign(ctypes.byref(block), 64, SIZE) == 0
  ctypes.memset(block, 1, SIZE)
  held = resident()
  libc.free(block)
after = resident()
print(json.dumps([held - before[0], after - before[0], faults() - before[1]]))
"""
  held, left, faults = json.loads(run(tuned, '-c', program))
  assert held >= 1 << 26
  assert left < 1 << 24
  # In pages of 4 kB each block has 16,384.
  assert faults < 4000


def test_a_command_restarts_with_the_setting(tuned):
  words = ['-m', 'gpt1_jax.pretrain', '--helpshort']
  program = f"""
import os, sys
def execve(path, words, env):
  print(path, words[1:], env['{VARIABLE}'], 'jax' in sys.modules)
  raise SystemExit
os.execve = execve
from gpt1_jax import memory
memory.restart(['python', *{words!r}])
"""
  said = run(plain(), '-c', program).strip()
  assert said == f'{sys.executable} {words} {tuned[VARIABLE]} False'
  # Started so, it does not again; nor where there are settings already.
  assert run(tuned, '-c', program) == ''
  other = plain() | {VARIABLE: 'glibc.malloc.arena_max=2'}
  assert run(other, '-c', program) == ''
  assert memory.environment(other) == other


def test_what_does_not_compute_is_left_alone(monkeypatch):
  def execve(*_):
    raise AssertionError

  monkeypatch.setattr(os, 'execve', execve)
  for words in (
    ['python'],
    ['python', '-m'],
    ['python', '-m', 'gpt1_jax.prepare'],
    ['python', '-m', 'pytest', 'tests'],
    ['python', 'launch/demo.py'],
  ):
    memory.restart(words)
