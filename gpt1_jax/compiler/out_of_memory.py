"""A step that does not fit: what the compiler says, in one sentence."""

import dataclasses
import re
from typing import Any

from gpt1_jax.config import PretrainConfig

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)B?'
_ONE = re.compile(
  r'Allocation \(size=(\d+)\) would exceed memory \(size=(\d+)\)'
  r".*?shape = '(\w+\[[\d,]*\]).*?tag = '(?:output of )?([^'@]*)"
)
_NEEDED = re.compile(rf'Used {_SIZE} of {_SIZE} hbm')  # libtpu 0.0.40
_TEMPORARIES = re.compile(  # libtpu 0.0.42
  rf'temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)'
)


@dataclasses.dataclass(frozen=True)
class Buffer:
  """One of the largest allocations of a program that does not fit."""

  bytes: int
  shape: str
  operation: str
  count: int


def parse(message: str) -> dict[str, Any]:
  """What the compiler says was needed, and what for.

  Args:
    message: of its error, 'Ran out of memory in memory space hbm ...'; where
      the temporaries alone are too large, libtpu 0.0.42 lists no buffers.

  Returns:
    Fields of `compiled.Figures`, None where the message does not tell.
  """
  temporaries = _TEMPORARIES.search(message)
  needed = _NEEDED.search(message) or temporaries
  parts = {
    name: _bytes(size, unit)
    for name, size, unit in re.findall(
      rf'^\s+(arguments|HLO temp)\s+{_SIZE}', message, re.MULTILINE
    )
  }
  one = _ONE.search(message)
  if one:  # an array larger than all memory
    size, capacity, shape, operation = one.groups()
    buffer = Buffer(int(size), shape, operation, 1)
    return {
      'hbm_peak_bytes': int(size),
      'hbm_capacity_bytes': int(capacity),
      'hbm_temp_bytes': None,
      'hbm_argument_bytes': None,
      'buffers': (buffer,),
    }
  return {
    'hbm_peak_bytes': _bytes(*needed.groups()[:2]) if needed else None,
    'hbm_capacity_bytes': _bytes(*needed.groups()[2:]) if needed else None,
    'hbm_temp_bytes': (
      _bytes(*temporaries.groups()[:2])
      if temporaries
      else parts.get('HLO temp')
    ),
    'hbm_argument_bytes': parts.get('arguments'),
    'buffers': _buffers(message),
  }


def _buffers(message: str) -> tuple[Buffer, ...]:
  """The largest allocations, those alike counted together."""
  found: dict[tuple[int, str], list[str]] = {}
  for block in re.split(r'\n\s+\d+\. (?=Size:)', message)[1:]:
    size = re.match(rf'Size: {_SIZE}', block)
    shape = re.search(r'Shape: (\w+\[[\d,]*\])', block)
    operation = re.search(r'op_name="([^"]*)"', block)
    key = (_bytes(*size.groups()), shape[1] if shape else '?')
    found.setdefault(key, []).append(_where(operation[1] if operation else ''))
  return tuple(
    Buffer(size, shape, names[0], len(names))
    for (size, shape), names in sorted(found.items(), reverse=True)
  )


def _where(name: str) -> str:
  """jit(step)/jvp(GPT)/while/body/closed_call/h/attn/mul → h/attn/mul."""
  parts = [
    part
    for part in name.split('/')
    if '(' not in part and part not in ('while', 'body', 'closed_call')
  ]
  return '/'.join(parts) or 'unnamed'


def _bytes(size: str, unit: str) -> int:
  return round(float(size) * _UNITS[unit])


def sentence(figures: Any, settings: PretrainConfig) -> str:
  """Why it does not fit, and which settings would help; one line.

  Args:
    figures: `compiled.Figures`.
    settings: what was compiled.
  """

  def gib(n):
    return f'{n / 2**30:.2f} GiB'

  out = 'does not fit'
  if figures.hbm_peak_bytes:
    out += (
      f': a device needs at least {gib(figures.hbm_peak_bytes)} of the '
      f'{gib(figures.hbm_capacity_bytes)} it has'
    )
  if figures.buffers:
    listed = [
      f'{b.shape} of {b.operation} ({gib(b.bytes)}'
      + (f', {b.count} of them)' if b.count > 1 else ')')
      for b in figures.buffers[:3]
    ]
    out += '; the largest buffers are ' + ', '.join(listed)
  return f'{out}; what would help: ' + ', '.join(remedies(figures, settings))


def remedies(figures: Any, settings: PretrainConfig) -> list[str]:
  """Settings that take less memory, the cheapest first."""
  model, microbatches = settings.model, settings.train.microbatches
  out = []
  if model.dtype == 'float32':
    out.append('config.model.dtype=bfloat16')
  out.append(f'config.train.microbatches={2 * microbatches}')
  remat = getattr(model, 'remat', None)  # an LSTM has none
  if remat == 'none':
    out.append('config.model.remat=dots or full')
  elif remat in ('auto', 'dots'):
    out.append('config.model.remat=full')
  arguments = figures.hbm_argument_bytes or 0
  if arguments > (figures.hbm_capacity_bytes or 0) / 4:
    out.append('config.mesh.fsdp=4 (spreads parameters and optimiser)')
  out.append(f'config.data.batch_size={settings.data.batch_size // 2}')
  return [*out, 'more chips']
