"""The machine's matrix peak: the fastest square product of a few sizes."""

import contextlib
import importlib.metadata
import time
from typing import Any

from benchmarks import process


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  make = {'jax': _jax, 'torch': _torch}[settings['library']]
  products = [
    (n, make(n, dtype), dtype)
    for n in settings['sizes']
    for dtype in ('float32', 'bfloat16')
  ]

  def measure() -> dict[str, float]:
    best = {'float32': 0.0, 'bfloat16': 0.0}
    for n, product, dtype in products:
      product()
      for _ in range(3):
        started = time.perf_counter()
        product()
        seconds = time.perf_counter() - started
        best[dtype] = max(best[dtype], 2 * n**3 / seconds)
    return best

  return measure, _VERSIONS[settings['library']]()


def _jax(n: int, dtype: str):
  import jax
  import jax.numpy as jnp

  @jax.jit
  def product(x, y):
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)

  x = jax.random.normal(jax.random.key(0), (n, n), dtype)
  return lambda: product(x, x).block_until_ready()


def _torch(n: int, dtype: str):
  import torch

  x = torch.randn(n, n).to(getattr(torch, dtype))
  return lambda: x @ x


def _torch_versions() -> dict[str, str]:
  import torch

  out = {'torch': torch.__version__, 'torch_threads': torch.get_num_threads()}
  with contextlib.suppress(ModuleNotFoundError):
    out['transformers'] = importlib.metadata.version('transformers')
  return out


_VERSIONS = {
  'jax': lambda: {'jax': importlib.metadata.version('jax')},
  'torch': _torch_versions,
}


if __name__ == '__main__':
  process.serve(prepare)
