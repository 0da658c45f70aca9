"""malloc_trim returns memory after long compilations, and only then."""

import ctypes
import json

import pytest

from tests.support import commands

pytestmark = pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), 'malloc_trim'),
  reason='the C library is not glibc',
)
PROGRAM = """
import ctypes, json, jax, pathlib, sys
from gpt1_jax.train import malloc
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if 'trimming' in sys.argv:
  malloc.trim_after_compiling()
  malloc.trim_after_compiling()  # registers once
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


def returned_share(*events, trimming=True):
  words = ['trimming'] * trimming
  return float(commands.succeed('-c', PROGRAM, *words, json.dumps(events)))


def test_memory_is_returned_after_a_long_compilation():
  assert returned_share((COMPILED, 2.0)) > 0.9


def test_memory_stays_after_anything_else():
  assert returned_share((COMPILED, 2.0), trimming=False) < 0.1
  assert returned_share((COMPILED, 0.1), ('/another', 2.0)) < 0.1


def test_jax_reports_compilations_under_this_name():
  program = """
import jax
found = []
jax.monitoring.register_event_duration_secs_listener(
  lambda event, seconds, **_: found.append(event)
)
jax.jit(lambda x: x + 1)(1.0)
print('\\n'.join(found))
"""
  assert COMPILED in commands.succeed('-c', program).split()
