"""Lack of memory ends a command in one line, wherever it is noticed."""

import errno
import subprocess
import sys

import pytest

from gpt1_jax import memory
from gpt1_jax.errors import UserError, describe
from tests.support import commands


@pytest.mark.parametrize(
  ('error', 'is_memory'),
  [
    (MemoryError(), True),
    (MemoryError('std::bad_alloc'), True),
    (OSError(errno.ENOMEM, 'Cannot allocate memory'), True),
    (ImportError('a.so: failed to map segment from shared object'), True),
    (RuntimeError("can't start new thread"), True),
    (RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 B'), True),
    (SystemError('error return without exception set'), True),
    (ValueError('RESOURCE_EXHAUSTED: in reading "state/d/1"'), True),
    (ValueError('RESOURCE_EXHAUSTED: [ENOSPC No space left on device]'), False),
    (OSError(errno.ENOSPC, 'No space left on device'), False),
    (ImportError('No module named a'), False),
    (ValueError("invalid literal for int(): 'out of memory'"), False),
    (UserError('out of memory.txt: no such file'), False),
  ],
)
def test_errors_that_mean_lack_of_memory(error, is_memory):
  assert (memory.explain_shortage(error) is not None) == is_memory
  damaged = UserError('the file is damaged')
  damaged.__context__ = error  # raised while handling it
  assert (memory.explain_shortage(damaged) is not None) == is_memory


def test_too_many_open_files_are_no_lack_of_memory():
  text = 'Error opening "zarr" driver: [EMFILE Too many open files]'
  error = ValueError(f'RESOURCE_EXHAUSTED: {text}')
  limit = 'Too many open files: raise the limit with ulimit -n'
  assert memory.explain_shortage(error) == limit
  assert describe(OSError(errno.EMFILE, 'Too many open files', 'x')) == (
    limit,
    1,
  )


FAILS = """
from gpt1_jax import cli
def main():
  try:
    import jax.numpy as jnp
    jnp.ones(10**14).block_until_ready()
  except Exception as error:
    KIND
cli.run(main)
"""


@pytest.mark.parametrize('kind', ['raise', 'raise cli.errors.UserError("x")'])
def test_an_array_that_does_not_fit_is_one_line(kind):
  done = commands.run_forked(FAILS.replace('KIND', kind))
  line = commands.error_of(done, code=1)
  assert line.startswith('error: memory ran out (RESOURCE_EXHAUSTED')
  assert 'raise the limit (ulimit -v' in line


@pytest.mark.skipif(sys.platform != 'linux', reason='needs RLIMIT_AS')
def test_too_little_memory_for_jax_is_one_line():
  """XLA's library is larger than the limit, on every machine."""
  command = f'ulimit -v 300000; exec {sys.executable} -m gpt1_jax.generate'
  done = subprocess.run(
    ['bash', '-c', f'{command} --workdir=models/mini'],
    cwd=commands.ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 1
  first, line = done.stderr.splitlines()
  assert first == 'generate: from models/mini; loading JAX'
  assert line.startswith('error: memory ran out')
