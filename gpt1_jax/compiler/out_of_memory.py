"""Explains why a step does not fit in memory, and suggests settings."""

import dataclasses
import re

from gpt1_jax.config import PretrainConfig

_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
_SIZE = r'([\d.]+)([KMGT]?)B?'
_ONE_ARRAY = re.compile(
  r'Allocation \(size=(\d+)\) would exceed memory \(size=(\d+)\)'
  r".*?shape = '(\w+\[[\d,]*\]).*?tag = '(?:output of )?([^'@]*)"
)
_NEEDED = re.compile(rf'Used {_SIZE} of {_SIZE} hbm')  # libtpu 0.0.40
_TEMPORARIES = re.compile(  # libtpu 0.0.42
  rf'temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)'
)


@dataclasses.dataclass(frozen=True)
class HbmUse:
  """HBM that a step needs on one device, in bytes; None if unknown.

  Attributes:
    peak: arguments, outputs that do not reuse an argument, temporaries, code.
    temp: temporaries.
    arguments: parameters, optimiser state and batch.
    capacity: HBM that a program may use.
  """

  peak: int | None
  temp: int | None
  arguments: int | None
  capacity: int | None


@dataclasses.dataclass(frozen=True)
class Buffer:
  """One of the largest allocations of a program that does not fit."""

  bytes: int
  shape: str
  operation: str
  count: int


def parse(
  message: str, capacity: int | None = None
) -> tuple[HbmUse, tuple[Buffer, ...]]:
  """Parses the compiler's message, 'Ran out of memory in memory space hbm ...'.

  Args:
    message: error message. If the temporaries alone are too large, libtpu
      0.0.42 lists no buffers.
    capacity: HBM of the device, used if the message does not state it.
  """
  one = _ONE_ARRAY.search(message)
  if one:  # a single array exceeds the memory
    size, limit, shape, operation = one.groups()
    buffer = Buffer(int(size), shape, operation, 1)
    return HbmUse(int(size), None, None, int(limit)), (buffer,)
  parts = {
    name: _bytes(size, unit)
    for name, size, unit in re.findall(
      rf'^\s+(arguments|HLO temp)\s+{_SIZE}', message, re.MULTILINE
    )
  }
  peak, temp = None, parts.get('HLO temp')
  temporaries = _TEMPORARIES.search(message)
  needed = _NEEDED.search(message) or temporaries
  if needed:
    size, unit, *limit = needed.groups()
    peak, capacity = _bytes(size, unit), _bytes(*limit)
    temp = peak if temporaries else temp
  return HbmUse(peak, temp, parts.get('arguments'), capacity), _buffers(message)


def _buffers(message: str) -> tuple[Buffer, ...]:
  """Returns the listed allocations, largest first, identical ones merged."""
  found: dict[tuple[int, str], list[str]] = {}
  for block in re.split(r'\n\s+\d+\. (?=Size:)', message)[1:]:
    size = re.match(rf'Size: {_SIZE}', block)
    shape = re.search(r'Shape: (\w+\[[\d,]*\])', block)
    operation = re.search(r'op_name="([^"]*)"', block)
    if size:
      key = (_bytes(*size.groups()), shape[1] if shape else '?')
      name = _short(operation[1] if operation else '')
      found.setdefault(key, []).append(name)
  return tuple(
    Buffer(size, shape, names[0], len(names))
    for (size, shape), names in sorted(found.items(), reverse=True)
  )


def _short(name: str) -> str:
  """Shortens jit(step)/jvp(GPT)/while/body/closed_call/h/attn/mul."""
  parts = [
    part
    for part in name.split('/')
    if '(' not in part and part not in ('while', 'body', 'closed_call')
  ]
  return '/'.join(parts) or 'unnamed'


def _bytes(size: str, unit: str) -> int:
  return round(float(size) * _UNITS[unit])


def explain(
  memory: HbmUse,
  buffers: tuple[Buffer, ...],
  config: PretrainConfig,
) -> str:
  """Returns one line: why a step does not fit, and settings that would help."""
  out = 'does not fit'
  if memory.peak and memory.capacity:
    out += (
      f': a device needs at least {_gib(memory.peak)} of the '
      f'{_gib(memory.capacity)} it has'
    )
  if buffers:
    listed = [
      f'{b.shape} of {b.operation} ({_gib(b.bytes)}'
      + (f', {b.count} of them)' if b.count > 1 else ')')
      for b in buffers[:3]
    ]
    out += '; the largest buffers are ' + ', '.join(listed)
  return f'{out}; try ' + ', '.join(remedies(memory, config))


def _gib(size: int) -> str:
  return f'{size / 2**30:.2f} GiB'


def remedies(memory: HbmUse, config: PretrainConfig) -> list[str]:
  """Returns settings that reduce memory, cheapest first."""
  out = []
  if config.model.dtype == 'float32':
    out.append('config.model.dtype=bfloat16')
  out.append(f'config.train.microbatches={2 * config.train.microbatches}')
  remat = getattr(config.model, 'remat', 'full')  # an LSTM has none
  if remat == 'none':
    out.append('config.model.remat=dots or full')
  elif remat != 'full':
    out.append('config.model.remat=full')
  if (memory.arguments or 0) > (memory.capacity or 0) / 4:
    out.append('config.mesh.fsdp=4 (shards parameters and optimiser state)')
  out.append(f'config.data.batch_size={config.data.batch_size // 2}')
  return [*out, 'more chips']
