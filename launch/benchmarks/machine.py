"""Describes the machine that a figure was measured on."""

import pathlib
import platform
import re
import time

import jax
import jax.numpy as jnp

_SIZE = 2048  # rows and columns of the matrices
_TRIALS = 5


def processor() -> str:
  """Returns the processor's name."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return platform.processor() or platform.machine()
  found = re.search(r'^model name\s*:\s*(.*)$', text, re.MULTILINE)
  return found[1] if found else platform.machine()


def matrix_peak() -> float:
  """Returns the FLOP/s of a large bfloat16 matrix product: the best of five."""
  a = jnp.ones((_SIZE, _SIZE), jnp.bfloat16)
  product = jax.jit(jnp.matmul)
  product(a, a).block_until_ready()
  seconds = []
  for _ in range(_TRIALS):
    start = time.perf_counter()
    product(a, a).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2 * _SIZE**3 / min(seconds)
