"""The machine that figures are of: processor, load, threads, matrix peaks."""

import os
import pathlib
import platform
import re
from typing import Any

from benchmarks import process, results


def facts(options: results.Options) -> dict[str, Any]:
  """What a reader needs to judge the figures by.

  Returns:
    cpu, threads, load (of the last minute), and the peaks in FLOP/s of a
    matrix product, `float32` and `bfloat16`: the faster of XLA and torch.
  """
  load = os.getloadavg()[0]
  sizes = [256] if options.quick else [1024, 2048]
  measured, versions = process.alternate(
    {
      f'peak of {library}': ('peak', {'library': library, 'sizes': sizes})
      for library in ('jax', 'torch')
    },
    options,
  )
  peaks = {
    dtype: max(values[dtype] for found in measured.values() for values in found)
    for dtype in ('float32', 'bfloat16')
  }
  versions = {k: v for found in versions.values() for k, v in found.items()}
  threads = len(os.sched_getaffinity(0))
  return {'cpu': _cpu(), 'threads': threads, 'load': load, **versions, **peaks}


def sentence(facts: dict[str, Any]) -> str:
  """The facts, for people."""
  return (
    f'{facts["cpu"]}, {facts["threads"]} threads, load {facts["load"]:.2f} at '
    f'the start; matrix peak {facts["float32"] / 1e9:.0f} GFLOP/s in float32, '
    f'{facts["bfloat16"] / 1e9:.0f} in bfloat16; '
    + ', '.join(
      f'{name} {facts[name]}'
      for name in ('jax', 'torch', 'transformers')
      if name in facts
    )
  )


def _cpu() -> str:
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return platform.processor() or platform.machine()
  found = re.search(r'^model name\s*:\s*(.*)$', text, re.MULTILINE)
  return found[1] if found else platform.machine()
