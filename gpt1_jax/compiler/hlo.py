"""A compiled program, read off its text: operations, loops, collectives.

`hlo_cost` weighs what is read here. A loop's trip count is what the compiler
noted, or the constant that its condition compares the counter with.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_BITS = re.compile(r'[a-z]+?(\d+)')
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_NAME = re.compile(r'%([\w.\-]+)')

_MEGASCALE = re.compile(
  r'_xla_megascale_target="\{([\d,]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)
COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)


@dataclasses.dataclass(frozen=True)
class Array:
  """An array type.

  Attributes:
    dims: its shape.
    plain_bytes, bytes: without the padding of its tiles, and with it.
    space: where it lies: 0 is HBM, a TPU's 1 is VMEM.
  """

  dims: tuple[int, ...]
  plain_bytes: int
  bytes: int
  space: int

  @property
  def elements(self) -> int:
    return math.prod(self.dims)


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  root: bool
  arrays: tuple[Array, ...]
  opcode: str
  operands: tuple[str, ...]
  rest: str  # operands and attributes, as written

  @property
  def elements(self) -> int:
    return sum(a.elements for a in self.arrays)

  def attribute(self, name: str) -> str | None:
    found = re.search(rf'\b{name}=%?([\w.\-]+)', self.rest)
    return found and found[1]


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of the program.

  Attributes:
    kind: of COLLECTIVES.
    bytes: of one execution on one device: of the whole that is reduced,
      gathered, scattered or sent, as laid out without padding.
    count: executions a step.
    devices: that take part together; slices, over 'dcn'.
    network: 'ici' within a slice, 'dcn' between slices.
    groups: of devices, by their place in the mesh; empty over 'dcn'.
  """

  kind: str
  bytes: int
  count: int
  devices: int
  network: str
  groups: tuple[tuple[int, ...], ...]


class Program:
  """The computations of an optimised HLO module's text."""

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    self.entry = ''
    counts = re.search(r'num_partitions=(\d+)', text.partition('\n')[0])
    self.num_devices = int(counts[1]) if counts else 1
    body = None
    for line in text.splitlines():
      header = None if line.startswith(' ') else _HEADER.match(line)
      if header:
        body = self.computations.setdefault(header[2], {})
        self.entry = header[2] if header[1] else self.entry
      elif body is not None:
        found = _INSTRUCTION.match(line)
        if found:
          body[found[2]] = _instruction(bool(found[1]), found[2], found[3])

  def collectives(self) -> list[Collective]:
    """Every collective operation, with how often it runs.

    A TPU's may run beside others in steps: one chain is one operation. A sum
    of which each keeps a part is named for what it is, a reduce-scatter. What
    crosses slices is sent to their hosts (megascale) to be reduced there.
    """
    found, chains = [], set()
    for where, i, count in self.walk():
      kind, size = (
        i.opcode.removesuffix('-start'),
        self._operand_bytes(where, i),
      )
      chain = re.search(r'channel_id=(\d+).*chain_id="?(\d+)', i.rest)
      if chain and chain.groups() in chains:
        continue
      chains.update([chain.groups()] if chain else [])
      if kind in COLLECTIVES:
        together = groups(i.rest, self.num_devices)
        size *= len(together[0]) if kind == 'all-gather' else 1
        if where.startswith('all-reduce-scatter'):
          kind = 'reduce-scatter'
        devices = max(map(len, together))
        found.append(Collective(kind, size, count, devices, 'ici', together))
      sent = _MEGASCALE.search(i.rest) if kind == 'send' else None
      if sent:
        kind = sent[2].lower().replace('_', '-')
        slices = int(sent[1].split(',')[-1])
        found.append(Collective(kind, size, count, slices, 'dcn', ()))
    return found

  def _operand_bytes(self, where: str, i: Instruction) -> int:
    known = self.computations[where]
    names = i.operands[:1] if i.opcode == 'send' else i.operands
    return sum(
      a.plain_bytes for n in names if n in known for a in known[n].arrays
    )

  def unknown_loops(self) -> int:
    """Loops whose trip count the text does not tell: counted once."""
    return sum(
      i.opcode == 'while' and self._trip_count(i) is None
      for _, i, _ in self.walk()
    )

  def _trip_count(self, loop: Instruction) -> int | None:
    """Iterations of a `while`, if the text tells."""
    known = re.search(r'known_trip_count"?:\{"?n"?:"(\d+)"', loop.rest)
    if known:
      return int(known[1])
    condition = self.computations[loop.attribute('condition')]
    root = next(i for i in condition.values() if i.root)
    if root.opcode == 'fusion':  # of the comparison alone
      names = root.operands
    elif 'direction=LT' in root.rest:
      names = root.operands[1:]
    else:
      return None
    bounds = [condition[n] for n in names if condition[n].opcode == 'constant']
    value = re.match(r'(\d+)\)', bounds[0].rest) if len(bounds) == 1 else None
    return int(value[1]) if value else None

  def called(self, i: Instruction) -> list[tuple[str, int]]:
    """Computations that an instruction runs, and how often."""
    if i.opcode == 'while':
      trips = self._trip_count(i) or 1
      return [
        (i.attribute('body'), trips),
        (i.attribute('condition'), trips + 1),
      ]
    if i.opcode == 'conditional':
      branches = re.search(r'branch_computations=\{([^}]*)\}', i.rest)
      names = _NAME.findall(branches[1]) if branches else []
      names += [i.attribute(f'{v}_computation') for v in ('true', 'false')]
      return [(n, 1) for n in names if n in self.computations]
    called = None
    if i.opcode in ('fusion', 'call', 'async-start', 'call-start'):
      called = i.attribute('calls') or i.attribute('to_apply')
    return [(called, 1)] if called in self.computations else []

  def walk(self) -> Iterator[tuple[str, Instruction, int]]:
    """Computation, instruction in it, how often it runs."""
    yield from self._walk(self.entry, 1)

  def _walk(
    self, name: str, count: int
  ) -> Iterator[tuple[str, Instruction, int]]:
    for i in self.computations[name].values():
      yield name, i, count
      for called, times in self.called(i):
        yield from self._walk(called, count * times)


def _instruction(root: bool, name: str, text: str) -> Instruction:
  """`type opcode(operands), attributes` taken apart."""
  end = _closing(text, 0) if text.startswith('(') else text.index(' ')
  shape = text[:end]
  opcode, _, rest = text[end:].strip().partition('(')
  operands = _NAME.findall(rest[: _closing('(' + rest, 0) - 2])
  arrays = tuple(_array(*m.groups()) for m in _ARRAY.finditer(shape))
  return Instruction(name, root, arrays, opcode, tuple(operands), rest)


def _closing(text: str, start: int) -> int:
  """The place after the bracket that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] in '([{') - (text[place] in ')]}')
    if depth == 0:
      return place + 1
  return len(text)


def _array(dtype: str, dims: str, layout: str | None) -> Array:
  """`f32[16,512,1]{2,1,0:T(8,128)S(1)}`, the tile's padding counted."""
  shape = tuple(int(d.removeprefix('<=')) for d in dims.split(',') if d)
  bits = _BITS.match(dtype)
  width = max(1, int(bits[1]) // 8) if bits else int(dtype == 'pred')
  order, _, notes = (layout or '').partition(':')
  minor = [int(d) for d in order.split(',') if d] or range(len(shape))[::-1]
  physical = [shape[d] for d in minor]  # the fastest first
  tile = re.match(r'(?:D\([^)]*\))?T\(([\d,]+)\)', notes)
  for axis, step in enumerate(reversed(tile[1].split(',') if tile else [])):
    if axis < len(physical):
      physical[axis] = -(-physical[axis] // int(step)) * int(step)
  space = re.search(r'S\((\d+)\)', notes)
  return Array(
    shape,
    math.prod(shape) * width,
    math.prod(physical) * width,
    int(space[1]) if space else 0,
  )


def groups(text: str, num_devices: int) -> tuple[tuple[int, ...], ...]:
  """replica_groups or source_target_pairs, in each of their spellings."""
  pairs = re.search(
    r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}', text
  )
  if pairs:
    found = re.findall(r'\{([\d, ]+)\}', pairs[1])
    return tuple(tuple(int(d) for d in g.split(',')) for g in found)
  iota = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text
  )
  if iota:
    ints = [[int(d) for d in (x or '').split(',') if d] for x in iota.groups()]
    ids = np.arange(math.prod(ints[1])).reshape(ints[1])
    ids = ids.transpose(ints[2]) if ints[2] else ids
    return tuple(map(tuple, ids.reshape(ints[0]).tolist()))
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', text)
  if mesh:
    return _mesh_groups(mesh[1], mesh[2])
  return (tuple(range(num_devices)),)


def _mesh_groups(mesh: str, axes: str) -> tuple[tuple[int, ...], ...]:
  """Groups along axes of a mesh; 'a':(2)4 is the 4 after the first 2 of a."""
  sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
  parts = {name: [n] for name, n in sizes.items()}
  taken = []
  for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
    if size:
      a, b = int(before), int(size)
      parts[name] = [a, b, sizes[name] // a // b]
    taken.append((name, 1 if size else 0))
  order = [(name, k) for name, cut in parts.items() for k in range(len(cut))]
  ids = np.arange(math.prod(sizes.values()))
  ids = ids.reshape([parts[name][k] for name, k in order])
  kept = [a for a, x in enumerate(order) if x not in taken]
  ids = ids.transpose(kept + [order.index(x) for x in taken])
  width = math.prod(parts[name][k] for name, k in taken)
  return tuple(map(tuple, ids.reshape(-1, width).tolist()))
