"""Counts a compiled program's FLOPs and bytes, with every loop in full.

XLA's cost analysis counts a loop body once and does not separate HBM traffic
from other memories. This module counts with and without the loops' trip counts;
the ratio scales XLA's totals.
"""

import dataclasses
import functools
import math
import re

import numpy as np

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
    flops: matrix products, other arithmetic, and the FLOPs that kernels state.
    bytes: bytes read and written in all memories, tile padding included.
    hbm_bytes: bytes read and written in HBM.
  """

  flops: float
  bytes: float
  hbm_bytes: float


def count(hlo: HloText, *, loops_once: bool = False) -> Cost:
  """Counts the cost of a program.

  Args:
    hlo: the program.
    loops_once: True counts each loop body once, as XLA's cost analysis does.
  """

  @functools.cache
  def total(name: str) -> np.ndarray:
    out = np.zeros(3)
    for i in hlo.computations[name].values():
      calls = hlo.calls(i)
      if i.opcode == 'fusion':  # moves only its operands and outputs
        out[0] += total(calls[0][0])[0]
      else:
        out += sum(
          (1 if loops_once else times) * total(called)
          for called, times in calls
        )
      if not calls or i.opcode == 'fusion':
        out += _cost(hlo, hlo.computations[name], i)
    return out

  return Cost(*total(hlo.entry).tolist())


def _cost(hlo: HloText, computation: Computation, i: Instruction) -> np.ndarray:
  """Returns an instruction's FLOPs, bytes and HBM bytes."""
  if _FREE.fullmatch(i.opcode) or not i.arrays or _FREE_CALLS.search(i.rest):
    return np.zeros(3)
  kernel = _KERNEL.search(i.rest) if i.opcode == 'custom-call' else None
  if kernel:
    stated = dict(re.findall(r'"?(\w+)"?:"?(\d+)"?', kernel[1]))
    moved = float(stated.get('bytes_accessed', 0))
    return np.array([float(stated.get('flops', 0)), moved, moved])
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
  in_hbm = sum(size for size, array in parts if array.space == 0)
  return np.array([_flops(computation, i), moved, in_hbm])


def _outputs(i: Instruction) -> tuple[Array, ...]:
  """Returns the arrays that an instruction writes."""
  if i.opcode == 'copy-start':  # (destination, source, context)
    return i.arrays[:1]
  if i.opcode == 'slice-start':  # (source, destination, context)
    return i.arrays[1:2]
  return i.arrays


def _written(computation: Computation, i: Instruction) -> int:
  """Returns the bytes that an instruction writes; in place, only the update."""
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


def _flops(computation: Computation, i: Instruction) -> float:
  if i.opcode in ('dot', 'convolution'):
    return product_flops(computation, i)
  if i.opcode == 'reduce':
    return float(computation[i.operands[0]].arrays[0].elements)
  return float(i.arrays[0].elements) if _ARITHMETIC.fullmatch(i.opcode) else 0.0


def product_flops(computation: Computation, i: Instruction) -> float:
  """Returns the FLOPs of a matrix product: 2 per multiply-add.

  The TPU compiler writes products as convolutions, whose spatial axes stand for
  batch, contracted or free axes. Such an axis is as long as the longest of the
  input's, the window's and the output's.
  """
  lhs, rhs = (computation[name].arrays[0].dims for name in i.operands[:2])
  out = i.arrays[0]
  if i.opcode == 'dot':
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', i.rest)
    axes = [int(d) for d in found[1].split(',') if d] if found else []
    return 2.0 * out.elements * math.prod(lhs[a] for a in axes)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', i.rest)
  assert labels, i.rest
  x, window, y = map(dict, map(zip, labels.groups(), (lhs, rhs, out.dims)))
  spatial = (max(x[d], window[d], y[d]) for d in x if d.isdigit())
  return 2.0 * x['b'] * window['i'] * y['f'] * math.prod(spatial)
