"""What a compilation leaves in malloc's hands goes back to the system."""

import ctypes
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'malloc_trim'),
  reason='the C library is not glibc',
)
PROGRAM = """
import ctypes, json, jax, pathlib, sys
from gpt1_jax import memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if 'wanted' in sys.argv:
  memory.give_back_after_compiling()
  memory.give_back_after_compiling()  # once is enough, twice does no harm
SIZE, COUNT = 1 << 16, 4096
def resident():
  return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * 4096
blocks = [libc.malloc(SIZE) for _ in range(COUNT)]
for block in blocks:
  ctypes.memset(block, 1, SIZE)
for block in blocks[:-1]:  # the last one keeps the heap from shrinking
  libc.free(block)
before = resident()
for event, seconds in json.loads(sys.argv[-1]):
  jax.monitoring.record_event_duration_secs(event, seconds)
print((before - resident()) / (SIZE * COUNT))
"""
COMPILED = '/jax/core/compile/backend_compile_duration'


def given_back(*events, wanted=True):
  words = ['wanted'] * wanted
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, *words, json.dumps(events)],
    capture_output=True,
    text=True,
    check=True,
  )
  return float(done.stdout)


def test_after_a_long_compilation_freed_memory_goes_back():
  assert given_back((COMPILED, 2.0)) > 0.9


def test_otherwise_it_stays():
  assert given_back((COMPILED, 2.0), wanted=False) < 0.1
  assert given_back((COMPILED, 0.1), ('/another', 2.0)) < 0.1


def test_jax_tells_of_a_compilation_by_that_name():
  program = """
import jax
found = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, seconds, **_: found.append(event)
)
jax.jit(lambda x: x + 1)(1.0)
print('\\n'.join(found))
"""
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert COMPILED in done.stdout.split()
