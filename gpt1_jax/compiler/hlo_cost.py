"""What a compiled program costs: FLOPs and bytes, loops counted in full.

XLA's own cost analysis counts the body of a loop once, and our layers are a
loop. Here every operation is costed by XLA's rules (it reads its operands and
writes its output; a fusion reads its parameters, or the slices it takes of
them) and counts as often as it runs. Bytes are those of the layout, padding
included.
"""

import dataclasses
import functools
import math
import re

import numpy as np

from gpt1_jax.compiler.hlo import Instruction, Program

# By `HloCostAnalysis`: what moves nothing, what is no floating point operation
# and what is counted apart from them.
_FREE = """
  parameter constant tuple get-tuple-element bitcast after-all partition-id
  replica-id iota add-dependency opt-barrier domain copy-done slice-done
  all-reduce-done all-gather-done collective-permute-done async-done call-done
  async-update send-done recv-done
"""
_MOVES = """
  copy copy-start slice-start slice dynamic-slice dynamic-update-slice gather
  scatter broadcast reshape transpose concatenate pad reverse sort custom-call
  send recv rng-bit-generator bitcast-convert reduce-window
"""
_TRANSCENDENTAL = """
  exponential exponential-minus-one log log-plus-one logistic power sqrt cbrt
  rsqrt tanh sine cosine tan erf atan2
"""
_FREE = frozenset(_FREE.split())
_NO_FLOPS = _FREE.union(_MOVES.split(), _TRANSCENDENTAL.split())


@dataclasses.dataclass(frozen=True)
class Cost:
  """Attributes: flops; bytes of all memories; hbm_bytes of HBM alone."""

  flops: float = 0.0
  bytes: float = 0.0
  hbm_bytes: float = 0.0

  def __add__(self, other: 'Cost') -> 'Cost':
    mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
    return Cost(*(a + b for a, b in zip(mine, theirs, strict=True)))

  def times(self, n: float) -> 'Cost':
    return Cost(*(a * n for a in dataclasses.astuple(self)))


def of(program: Program, *, once: bool = False) -> Cost:
  """The cost of one execution on one device.

  Args:
    program: read.
    once: count loop bodies once, as XLA's cost analysis does.
  """
  return _Costs(program).of(program.entry, once)


class _Costs:
  """Costs of the computations of a program, each taken once."""

  def __init__(self, program: Program):
    self._program = program
    self._computations = program.computations
    self.of = functools.cache(self._of)

  def _of(self, name: str, once: bool) -> Cost:
    total = Cost()
    computation = self._computations[name]
    for i in computation.values():
      if i.opcode == 'fusion':
        inner = self.of(i.attribute('calls'), once)
        total += Cost(inner.flops, *self._fusion_bytes(computation, i))
      elif i.opcode in ('while', 'call', 'async-start', 'call-start'):
        for called, times in self._program.called(i):
          total += self.of(called, once).times(1 if once else times)
      elif i.opcode == 'conditional':
        costs = [self.of(n, once) for n, _ in self._program.called(i)]
        total += max(costs, key=lambda c: (c.flops, c.bytes), default=Cost())
      else:
        flops, moved = self._flops(computation, i), _bytes(computation, i)
        stated = re.search(r'"?cost_estimate"?:\{([^{}]*)\}', i.rest)
        if i.opcode == 'custom-call' and stated:  # a kernel's own figures
          pairs = dict(re.findall(r'"?(\w+)"?:"?(\d+)"?', stated[1]))
          flops = float(pairs.get('flops', 0))
          moved = (float(pairs.get('bytes_accessed', 0)),) * 2
        total += Cost(flops, *moved)
    return total

  def _flops(self, computation: dict, i: Instruction) -> float:
    if i.opcode in _NO_FLOPS:
      return 0.0
    if i.opcode in ('dot', 'convolution'):
      return product_flops(computation, i)
    if i.opcode == 'reduce':
      taken = computation[i.operands[0]].elements
      inner = self.of(i.attribute('to_apply'), True).flops
      return float(inner * max(0, taken - i.arrays[0].elements))
    return float(i.elements)

  def _fusion_bytes(
    self, computation: dict, i: Instruction
  ) -> tuple[float, float]:
    """Parameters as far as they are read, and outputs as far as written."""
    inside = self._computations[i.attribute('calls')]
    root = next(x for x in inside.values() if x.root)
    ends = [inside[n] for n in root.operands] if root.opcode == 'tuple' else []
    moved = [
      (_written(inside, end), array)
      for end, array in zip(ends or [root], i.arrays, strict=False)
    ]
    parameters = [x for x in inside.values() if x.opcode == 'parameter']
    for parameter in parameters:
      operand = computation[i.operands[int(parameter.rest.split(')')[0])]]
      if len(operand.arrays) == 1:
        read = self._read(inside, parameter)
        moved.append((min(read, operand.arrays[0].bytes), operand.arrays[0]))
    return (
      float(sum(n for n, _ in moved)),
      float(sum(n for n, a in moved if a.space == 0)),
    )

  def _read(self, inside: dict, i: Instruction) -> int:
    """Bytes of a fusion's parameter that its users take."""
    whole, taken = i.arrays[0].bytes, 0
    for user in inside.values():
      for place, operand in enumerate(user.operands):
        if operand != i.name:
          continue
        if user.opcode in ('slice', 'dynamic-slice', 'gather') and place == 0:
          taken += user.arrays[0].bytes
        elif user.opcode == 'dynamic-update-slice' and place == 0:
          taken += 0
        elif user.opcode in ('bitcast', 'reshape', 'copy', 'convert'):
          part = self._read(inside, user) / max(1, user.arrays[0].bytes)
          taken += int(whole * part)
        elif user.opcode == 'fusion':
          deeper = self._computations[user.attribute('calls')]
          names = [x for x in deeper.values() if x.opcode == 'parameter']
          (name,) = [x for x in names if x.rest.split(')')[0] == str(place)]
          taken += self._read(deeper, name)
        else:
          return whole
    return whole if i.root else min(whole, taken)


def _written(inside: dict, i: Instruction) -> int:
  """Bytes that a fusion writes: an update in place writes the update."""
  while i.opcode in ('bitcast', 'reshape', 'copy') and i.operands:
    i = inside[i.operands[0]]
  if i.opcode == 'dynamic-update-slice':
    return inside[i.operands[1]].arrays[0].bytes
  return i.arrays[0].bytes


def _bytes(computation: dict, i: Instruction) -> tuple[float, float]:
  """Bytes an operation by itself moves: of all memories, and of HBM."""
  if i.opcode in _FREE or not i.arrays:
    return 0.0, 0.0
  operands = [
    a
    for name in i.operands
    if name in computation
    for a in computation[name].arrays
  ]
  outputs = list(i.arrays)
  if i.opcode in ('slice', 'dynamic-slice', 'gather'):
    moved = [(outputs[0].bytes, operands[0]), (outputs[0].bytes, outputs[0])]
  elif i.opcode == 'dynamic-update-slice':
    update = operands[1]
    moved = [(update.bytes, update), (update.bytes, outputs[0])]
  elif i.opcode == 'scatter':
    update = operands[2]
    moved = [(update.bytes, update), (2 * update.bytes, outputs[0])]
  elif i.opcode in ('copy-start', 'slice-start'):
    # (destination, source, context), or ((sources), destination, context).
    target = outputs[0] if i.opcode == 'copy-start' else outputs[1]
    moved = [(target.bytes, operands[0]), (target.bytes, target)]
  elif i.opcode == 'custom-call' and re.search(
    r'"(AllocateBuffer|ConcatBitcast|AssumeGather\w+|Sharding)"', i.rest
  ):
    return 0.0, 0.0
  else:
    moved = [(a.bytes, a) for a in operands + outputs]
  return (
    float(sum(n for n, _ in moved)),
    float(sum(n for n, a in moved if a.space == 0)),
  )


def product_flops(computation: dict, i: Instruction) -> float:
  """2 x multiply-adds of a dot or a convolution, padding not counted."""
  out = i.arrays[0]
  lhs = computation[i.operands[0]].arrays[0].dims
  if i.opcode == 'dot':
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', i.rest)
    axes = [int(d) for d in found[1].split(',') if d] if found else []
    return 2.0 * out.elements * math.prod(lhs[a] for a in axes)
  rhs = computation[i.operands[1]].arrays[0].dims
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', i.rest)
  window = dict(re.findall(r'(\w+)=([\dx_\-]+)', i.rest[i.rest.find('{') :]))
  sizes = window.get('size', '').split('x') if 'size=' in i.rest else []
  batch_groups = int(i.attribute('batch_group_count') or 1)
  positions = 1
  for axis, size in enumerate(sizes):

    def value(name, default, axis=axis):
      given = window.get(name, '').split('x')
      return given[axis] if len(given) > axis and given[axis] else default

    positions *= _positions(
      lhs[labels[1].index(str(axis))],
      out.dims[labels[3].index(str(axis))],
      int(size),
      int(value('stride', 1)),
      int(str(value('pad', '0_0')).split('_')[0]),
      int(value('lhs_dilate', 1)),
      int(value('rhs_dilate', 1)),
    )
  inputs = rhs[labels[2].index('i')]
  outputs = out.dims[labels[3].index('f')]
  batch = lhs[labels[1].index('b')] // batch_groups
  return 2.0 * inputs * outputs * batch * positions


def _positions(inputs, outputs, size, stride, pad, lhs_dilate, rhs_dilate):
  """Pairs of output and window positions that meet an input element."""
  at = (
    np.arange(outputs)[:, None] * stride
    - pad
    + np.arange(size)[None] * rhs_dilate
  )
  inside = (at >= 0) & (at <= (inputs - 1) * lhs_dilate)
  return int((inside & (at % lhs_dilate == 0)).sum())
