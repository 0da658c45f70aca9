"""Counts a compiled program's FLOPs and bytes, with every loop in full.

XLA's cost analysis counts a loop body once and does not separate HBM traffic
from other memories. This module counts with and without the loops' trip counts;
the ratio scales XLA's totals.
"""

import dataclasses
import functools
import math
import re

from gpt1_jax.compiler.hlo_text import Array, Computation, HloText, Instruction

# Instructions that move no data, as in XLA's HloCostAnalysis.
_FREE = re.compile(
  'parameter|constant|tuple|get-tuple-element|bitcast|after-all|partition-id|'
  'replica-id|iota|add-dependency|opt-barrier|domain|async-update|.*-done'
)
_FREE_CALLS = re.compile(
  r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGather\w+|Sharding)"'
)
_ARITHMETIC = re.compile(
  'add|subtract|multiply|divide|maximum|minimum|negate|abs|clamp|compare|select|'
  'and|or|xor|not|shift-.*|convert|remainder|sign|floor|is-finite'
)
_KERNEL = re.compile(r'"?cost_estimate"?:\{([^{}]*)\}')
_SLICES = ('slice', 'dynamic-slice', 'gather', 'slice-start')


@dataclasses.dataclass(frozen=True)
class Cost:
  """The cost of one execution on one device.

  Attributes:
    products: FLOPs of matrix products, including those that kernels declare.
    other: FLOPs of other arithmetic.
    bytes: bytes read and written in all memories, tile padding included.
    hbm_bytes: bytes read and written in HBM.
  """

  products: float = 0.0
  other: float = 0.0
  bytes: float = 0.0
  hbm_bytes: float = 0.0

  @property
  def flops(self) -> float:
    return self.products + self.other

  def __add__(self, cost: 'Cost') -> 'Cost':
    pairs = zip(_fields(self), _fields(cost), strict=True)
    return Cost(*(a + b for a, b in pairs))

  def __mul__(self, times: float) -> 'Cost':
    return Cost(*(times * a for a in _fields(self)))


def _fields(cost: Cost) -> tuple[float, ...]:
  return cost.products, cost.other, cost.bytes, cost.hbm_bytes


def count(hlo: HloText, *, loops_once: bool = False) -> Cost:
  """Counts the cost of a program.

  Args:
    hlo: the program.
    loops_once: True counts each loop body once, as XLA's cost analysis does.
  """

  @functools.cache
  def total(name: str) -> Cost:
    out = Cost()
    for i in hlo.computations[name].values():
      calls = hlo.calls(i)
      if calls and i.opcode != 'fusion':
        for called, times in calls:
          out += total(called) * (1 if loops_once else times)
      else:
        out += cost(hlo, hlo.computations[name], i)
    return out

  return total(hlo.entry)


def cost(hlo: HloText, computation: Computation, i: Instruction) -> Cost:
  """Returns the cost of an instruction that calls nothing, or of a fusion."""
  if _FREE.fullmatch(i.opcode) or not i.arrays or _FREE_CALLS.search(i.rest):
    return Cost()
  if kernel := _KERNEL.search(i.rest) if i.opcode == 'custom-call' else None:
    stated = dict(re.findall(r'"?(\w+)"?:"?(\d+)"?', kernel[1]))
    moved = float(stated.get('bytes_accessed', 0))
    return Cost(float(stated.get('flops', 0)), 0.0, moved, moved)
  moved, in_hbm = _moved(hlo, computation, i)
  if i.opcode != 'fusion':
    return Cost(*_flops(computation, i), moved, in_hbm)
  inside = hlo.computations[i.attribute('calls')]
  inner = sum((cost(hlo, inside, x) for x in inside.values()), Cost())
  return Cost(inner.products, inner.other, moved, in_hbm)


def _moved(
  hlo: HloText, computation: Computation, i: Instruction
) -> tuple[float, float]:
  """Returns the bytes an instruction moves: (in all memories, in HBM)."""
  inside, ends, outputs = computation, [i.name], _outputs(i)
  if i.opcode == 'fusion':
    inside = hlo.computations[i.attribute('calls')]
    root = next(x for x in inside.values() if x.is_root)
    ends = list(root.operands) if root.opcode == 'tuple' else [root.name]
    outputs = outputs[: len(ends)]
  parts = [
    (_written(inside, inside[end]), a)
    for end, a in zip(ends, outputs, strict=False)
  ]
  parts += [(array.bytes, array) for array in outputs[len(ends) :]]
  for position, name in enumerate(i.operands):
    operand = computation.get(name)
    for array in operand.arrays if operand else ():
      parts.append((_read(hlo, i, position, array), array))
  moved = sum(size for size, _ in parts)
  return moved, sum(size for size, array in parts if array.space == 0)


def _outputs(i: Instruction) -> tuple[Array, ...]:
  """Returns the arrays that an instruction writes."""
  if i.opcode == 'copy-start':  # (destination, source, context)
    return i.arrays[:1]
  if i.opcode == 'slice-start':  # (source, destination, context)
    return i.arrays[1:2]
  return i.arrays


def _written(computation: Computation, i: Instruction) -> int:
  """Returns the bytes an instruction writes; if in place, only the update."""
  while i.opcode == 'bitcast':
    i = computation[i.operands[0]]
  if i.opcode == 'dynamic-update-slice':
    return computation[i.operands[1]].arrays[0].bytes
  return _outputs(i)[0].bytes


def _read(hlo: HloText, i: Instruction, position: int, operand: Array) -> int:
  """Returns the bytes that an instruction reads from an operand."""
  if i.opcode in _SLICES and position == 0:
    return _outputs(i)[0].bytes
  if i.opcode == 'dynamic-update-slice' and position == 0:
    return 0  # updated in place
  if i.opcode == 'fusion':
    inside = hlo.computations[i.attribute('calls')]
    parameter = next(
      x
      for x in inside.values()
      if x.opcode == 'parameter' and x.parameter_number == position
    )
    return min(operand.bytes, _read_inside(hlo, inside, parameter))
  return operand.bytes


def _read_inside(hlo: HloText, inside: Computation, i: Instruction) -> int:
  """Returns the bytes that a fusion's instructions read from a value."""
  array = i.arrays[0]
  if i.is_root:
    return array.bytes
  return sum(
    _read(hlo, user, position, array)
    for user in inside.values()
    for position, name in enumerate(user.operands)
    if name == i.name
  )


def _flops(computation: Computation, i: Instruction) -> tuple[float, float]:
  """Returns an instruction's FLOPs: (matrix products, other arithmetic)."""
  if product := read_product(computation, i):
    return product.flops, 0.0
  if i.opcode == 'reduce':
    return 0.0, float(computation[i.operands[0]].arrays[0].elements)
  arithmetic = _ARITHMETIC.fullmatch(i.opcode)
  return 0.0, float(i.arrays[0].elements) if arithmetic else 0.0


@dataclasses.dataclass(frozen=True)
class Product:
  """A matrix product.

  Attributes:
    flops: 2 per multiply-add.
    contracted: length of the axis that is summed over.
    free: the longer of the two operands' other axes.
  """

  flops: float
  contracted: int
  free: int


def read_product(computation: Computation, i: Instruction) -> Product | None:
  """Parses an instruction as a matrix product; returns None for others.

  The TPU compiler writes products as convolutions. Their spatial axes represent
  batch, contracted or free axes, whose length is the maximum of the input's,
  the window's and the output's.
  """
  if i.opcode not in ('dot', 'convolution'):
    return None
  lhs, rhs = (computation[name].arrays[0].dims for name in i.operands[:2])
  out = i.arrays[0]
  if i.opcode == 'dot':
    contracted = math.prod(lhs[a] for a in _axes(i, 'lhs_contracting_dims'))
    batch = math.prod(lhs[a] for a in _axes(i, 'lhs_batch_dims'))
    free = max(math.prod(lhs), math.prod(rhs)) // max(contracted * batch, 1)
    return Product(2.0 * out.elements * contracted, contracted, free)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', i.rest)
  assert labels, i.rest
  x, window, y = map(dict, map(zip, labels.groups(), (lhs, rhs, out.dims)))
  spatial = [d for d in x if d.isdigit()]
  contracted = window['i'] * math.prod(x[d] for d in spatial if y[d] == 1)
  rows = x['b'] * math.prod(y[d] for d in spatial if window[d] == 1)
  longest = math.prod(max(x[d], window[d], y[d]) for d in spatial)
  flops = 2.0 * x['b'] * window['i'] * y['f'] * longest
  return Product(flops, contracted, max(rows, y['f']))


def _axes(i: Instruction, name: str) -> list[int]:
  found = re.search(rf'{name}=\{{([\d,]*)\}}', i.rest)
  return [int(d) for d in found[1].split(',') if d] if found else []
