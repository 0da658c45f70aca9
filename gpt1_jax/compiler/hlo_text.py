"""Parses HLO text: computations, instructions and loops."""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = re.compile(r'[a-z]+?(\d+)')
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of an array.

  Attributes:
    dims: shape.
    data_bytes: size of the elements, without padding.
    bytes: size in memory, tile padding included.
    space: memory space: 0 is HBM, 1 is VMEM on a TPU.
  """

  dims: tuple[int, ...]
  data_bytes: int
  bytes: int
  space: int

  @property
  def elements(self) -> int:
    return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique in its computation.
    is_root: True for the instruction whose value the computation returns.
    arrays: types of the outputs; tuples are flattened.
    opcode: operation, such as 'fusion'.
    operands: names of other instructions in the computation.
    rest: the operands and attributes, as written.
  """

  name: str
  is_root: bool
  arrays: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  rest: str

  @property
  def parameter_number(self) -> int:
    """The index of a `parameter` instruction among the arguments."""
    return int(self.rest.split(')')[0])

  def attribute(self, name: str) -> str:
    """Returns an attribute's value, or '' if it is missing."""
    found = re.search(rf'\b{name}=%?([\w.\-]+)', self.rest)
    return found[1] if found else ''


# Maps names to instructions, in the order of the text.
Computation = dict[str, Instruction]


class HloText:
  """The computations of an optimised HLO module.

  Attributes:
    computations: maps names to computations.
    entry: name of the entry computation.
    num_devices: number of partitions.
  """

  def __init__(self, text: str):
    """Parses the output of `jax.stages.Compiled.as_text`."""
    self.computations: dict[str, Computation] = {}
    self.entry = ''
    partitions = re.search(r'num_partitions=(\d+)', text.partition('\n')[0])
    self.num_devices = int(partitions[1]) if partitions else 1
    body: Computation | None = None
    for line in text.splitlines():
      header = None if line.startswith(' ') else _HEADER.match(line)
      if header:
        body = self.computations.setdefault(header[2], {})
        self.entry = header[2] if header[1] else self.entry
      elif body is not None and (found := _INSTRUCTION.match(line)):
        body[found[2]] = _instruction(bool(found[1]), found[2], found[3])

  def walk(
    self, name: str = '', count: int = 1
  ) -> Iterator[tuple[str, Instruction, int]]:
    """Yields the instructions of a computation and of all that it calls.

    Args:
      name: the computation; default: the entry.
      count: number of times that it runs.

    Yields:
      The computation's name, an instruction, and the number of times that the
      instruction runs.
    """
    name = name or self.entry
    for i in self.computations[name].values():
      yield name, i, count
      for called, times in self.calls(i):
        yield from self.walk(called, count * times)

  def calls(self, i: Instruction) -> list[tuple[str, int]]:
    """Returns the computations that an instruction calls, with call counts."""
    if i.opcode == 'while':
      trips = self.trip_count(i) or 1
      return [
        (i.attribute('body'), trips),
        (i.attribute('condition'), trips + 1),
      ]
    names = []
    if i.opcode == 'conditional':
      branches = re.search(r'branch_computations=\{([^}]*)\}', i.rest)
      names = _NAME.findall(branches[1]) if branches else []
      names += [i.attribute(f'{v}_computation') for v in ('true', 'false')]
    elif i.opcode in ('fusion', 'call', 'async-start', 'call-start'):
      names = [i.attribute('calls') or i.attribute('to_apply')]
    return [(name, 1) for name in names if name in self.computations]

  def trip_count(self, loop: Instruction) -> int | None:
    """Returns the iterations of a `while`, or None if they are unknown.

    Uses the compiler's annotation, or else the constant that the condition
    compares the loop counter with.
    """
    known = re.search(r'known_trip_count"?:\{"?n"?:"(\d+)"', loop.rest)
    if known:
      return int(known[1])
    condition = self.computations[loop.attribute('condition')]
    root = next(i for i in condition.values() if i.is_root)
    if root.opcode == 'fusion':  # contains only the comparison
      names = root.operands
    elif 'direction=LT' in root.rest:
      names = root.operands[1:]
    else:
      return None
    bounds = [condition[n] for n in names if condition[n].opcode == 'constant']
    value = re.match(r'(\d+)\)', bounds[0].rest) if len(bounds) == 1 else None
    return int(value[1]) if value else None

  def count_unknown_loops(self) -> int:
    """Counts the loops whose trip count is unknown."""
    return sum(
      i.opcode == 'while' and self.trip_count(i) is None
      for _, i, _ in self.walk()
    )


def _instruction(is_root: bool, name: str, text: str) -> Instruction:
  """Parses `type opcode(operands), attributes`."""
  end = _closing(text) if text.startswith('(') else text.index(' ')
  opcode, _, rest = text[end:].strip().partition('(')
  operands = _NAME.findall(rest[: _closing('(' + rest) - 2])
  arrays = tuple(_array(*m.groups()) for m in _ARRAY.finditer(text[:end]))
  return Instruction(name, is_root, arrays, opcode, tuple(operands), rest)


def _closing(text: str) -> int:
  """Returns the position after the bracket that matches the first one."""
  depth = 0
  for position, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if depth == 0:
      return position + 1
  return len(text)


def _array(dtype: str, dims: str, layout: str | None) -> Array:
  """Parses a type such as `f32[16,512,1]{2,1,0:T(8,128)S(1)}`."""
  shape = tuple(int(d.removeprefix('<=')) for d in dims.split(',') if d)
  bits = _BITS.match(dtype)
  width = max(1, int(bits[1]) // 8) if bits else int(dtype == 'pred')
  order, _, notes = (layout or '').partition(':')
  minor = [int(d) for d in order.split(',') if d] or range(len(shape))[::-1]
  padded = [shape[d] for d in minor]  # minor axis first
  tile = re.match(r'(?:D\([^)]*\))?T\(([\d,]+)\)', notes)
  for axis, step in enumerate(reversed(tile[1].split(',') if tile else [])):
    if axis < len(padded):
      padded[axis] = -(-padded[axis] // int(step)) * int(step)
  space = re.search(r'S\((\d+)\)', notes)
  return Array(
    shape,
    math.prod(shape) * width,
    math.prod(padded) * width,
    int(space[1]) if space else 0,
  )
