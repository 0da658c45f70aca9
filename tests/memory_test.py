"""Commands that compute keep the memory that they free."""

import json
import os
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


def test_a_block_freed_and_taken_again_costs_no_new_pages(tuned):
  """Nor does it if something small was taken meanwhile, and stays."""
  program = """
import ctypes, json, resource
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
SIZE, kept = 1 << 26, []
def take(size):
  block = ctypes.c_void_p()
  assert libc.posix_memalign(ctypes.byref(block), 64, size) == 0
  ctypes.memset(block, 1, size)
  return block
def rounds(count):
  for _ in range(count):
    block = take(SIZE)
    kept.extend(take(size) for size in (40, 72, 104) for _ in range(50))
    libc.free(block)
resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
rounds(2)
before = resident(), faults()
rounds(6)
print(json.dumps([resident() - before[0], faults() - before[1]]))
"""
  grown, faults = json.loads(run(tuned, '-c', program))
  assert grown < 1 << 24
  # In pages of 4 kB a block alone has 16,384.
  assert faults < 4000


def test_a_command_restarts_with_the_settings(tuned):
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
