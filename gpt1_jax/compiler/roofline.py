"""Estimates the time of a step from its compiled text.

Operations run in sequence, each at the pace of its slowest resource.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

from gpt1_jax.compiler import collectives, hlo_cost
from gpt1_jax.compiler.hlo_text import Computation, HloText, Instruction
from gpt1_jax.train import chips

ASSUMPTIONS = (
  'operations run one after another, each as long as the longest of its time '
  'in the matrix unit, in HBM and in the vector unit; a matrix product runs at '
  'the bf16 peak times the share of the unit that its axes fill (128 wide, 256 '
  'on v6e and TPU7x: a head width of 64 fills half), a kernel as a product of '
  'the FLOPs that it states; vector units do 6.1 T operations per second on '
  'v5e, 12 T on v6e, and elsewhere 1/32 of the bf16 peak; data in VMEM causes '
  'no HBM traffic; a collective is a ring over all links of the slice '
  '(2 (n-1)/n of the bytes for an all-reduce, (n-1)/n for a gather or a '
  'scatter) and runs '
  'beside other operations only from its -start to its -done; slices '
  'communicate at the rate of the data-centre network'
)
COLLECTIVES = 'collectives, not hidden'
_VECTOR = {
  'TPU v5 lite': 6.1e12,
  'TPU v5e': 6.1e12,
  'TPU v6 lite': 12e12,
  'TPU v6e': 12e12,
}
_WIDE = ('TPU v6', 'TPU7x')  # their matrix unit is 256 wide
_IN_BLOCKS = re.compile(r'op_name="[^"]*(\bh/|_blocks)')


@dataclasses.dataclass(frozen=True)
class Part:
  """The seconds that operations of one kind take in a step.

  Attributes:
    seconds: their duration.
    mxu, hbm, vector: how long each resource is busy.
  """

  seconds: float = 0.0
  mxu: float = 0.0
  hbm: float = 0.0
  vector: float = 0.0

  def plus(self, part: 'Part', times: int = 1) -> 'Part':
    """Returns the sum of this part and `times` executions of another."""
    pairs = zip(
      dataclasses.astuple(self), dataclasses.astuple(part), strict=True
    )
    return Part(*(a + times * b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The estimated time of a step; see ASSUMPTIONS.

  Attributes:
    parts: kind of operation -> its seconds, the longest first.
    peak: bf16 FLOP/s of the device.
  """

  parts: dict[str, Part]
  peak: float

  @property
  def step_seconds(self) -> float:
    return sum(part.seconds for part in self.parts.values())

  @property
  def bottleneck(self) -> str:
    """The kind of operation that takes longest."""
    return max(self.parts, key=lambda kind: self.parts[kind].seconds)


def estimate(
  hlo: HloText, topology: chips.Topology, head_width: int
) -> Estimate | None:
  """Estimates the time of a program on one device.

  Args:
    hlo: the compiled program.
    topology: gives the chip and its links.
    head_width: width of a head; a kernel's text does not contain it.

  Returns:
    None if the chip's peaks are unknown.
  """
  chip = chips.lookup(topology.kind)
  if not chip:
    return None
  parts = _Timer(hlo, topology, chip, head_width).parts(hlo.entry)
  longest = sorted(parts, key=lambda kind: -parts[kind].seconds)
  return Estimate({kind: parts[kind] for kind in longest}, chip.flops)


def collective_seconds(
  c: collectives.Collective, topology: chips.Topology
) -> float:
  """Returns the time of one execution of a collective."""
  chip = chips.lookup(topology.kind)
  assert chip
  rate = topology.links * chip.link_bandwidth
  if c.network == 'dcn':
    rate = chip.dcn_bandwidth
  if c.devices < 2 or not rate:
    return 0.0
  passes = 2 if c.kind == 'all-reduce' else 1
  moves = c.kind == 'collective-permute'
  share = 1.0 if moves else (c.devices - 1) / c.devices
  return passes * share * c.bytes / rate


class _Timer:
  """Sums the time of a program's operations by kind."""

  def __init__(
    self,
    hlo: HloText,
    topology: chips.Topology,
    chip: chips.Chip,
    head_width: int,
  ):
    self._hlo, self._chip, self._head_width = hlo, chip, head_width
    self._topology = topology
    self._width = 256 if topology.kind.startswith(_WIDE) else 128
    self._vector = _VECTOR.get(topology.kind, chip.flops / 32)
    self.parts = functools.cache(self._parts)

  def _parts(self, name: str) -> dict[str, Part]:
    """Returns the seconds of one execution of a computation, by kind."""
    out: dict[str, Part] = {}
    ends: dict[str, float] = {}  # running collective -> when it ends
    clock = 0.0

    def add(kind: str, part: Part, times: int = 1) -> None:
      nonlocal clock
      out[kind] = out.get(kind, Part()).plus(part, times)
      clock += times * part.seconds

    def wait(end: float) -> None:
      if end > clock:
        add(COLLECTIVES, Part(end - clock))

    computation = self._hlo.computations[name]
    for i in computation.values():
      seconds, link, waits = self._collectives(name, i)
      if link:
        if link not in ends:
          ends[link] = max(clock, *ends.values(), 0.0) + seconds
        part = self._operation(computation, i)
        if part.mxu:  # a product that runs meanwhile
          add(_kind(i, part), part)
        if waits:
          wait(ends[link])
      elif seconds:
        add(COLLECTIVES, Part(seconds))
      elif i.opcode.endswith('-done'):
        wait(max((ends.get(x, 0.0) for x in i.operands), default=0.0))
      elif i.opcode != 'fusion' and (calls := self._hlo.calls(i)):
        for called, times in calls:
          for kind, part in self.parts(called).items():
            add(kind, part, times)
      else:
        part = self._operation(computation, i)
        if part.seconds:
          add(_kind(i, part), part)
    wait(max(ends.values(), default=0.0))
    return out

  def _collectives(self, name: str, i: Instruction) -> tuple[float, str, bool]:
    """Finds the collectives of an instruction; a loop or branch has none.

    Returns:
      Their time; the id of the overlapped collective (shared by its chain), or
      '' if none overlaps; True if the instruction waits for its chain to end.
    """
    pairs = [(name, i)]
    if i.opcode in ('fusion', 'async-start', 'call-start'):
      for called, _ in self._hlo.calls(i):
        inner = self._hlo.computations[called].values()
        pairs += [(called, x) for x in inner]
    seconds, link, waits = 0.0, '', False
    for place, x in pairs:
      waits |= 'AsyncCollectiveDone' in x.rest
      if collective := collectives.read(self._hlo, place, x):
        seconds += collective_seconds(collective, self._topology)
        link = ' '.join(collectives.chain(x) or ()) or link
    if seconds and i.opcode.endswith('-start'):
      link = i.name
    return seconds, link, waits

  def _operation(self, computation: Computation, i: Instruction) -> Part:
    cost = hlo_cost.cost(self._hlo, computation, i)
    mxu = cost.products / self._fill(computation, i) / self._chip.flops
    hbm = cost.hbm_bytes / self._chip.hbm_bandwidth
    vector = cost.other / self._vector
    return Part(max(mxu, hbm, vector), mxu, hbm, vector)

  def _fill(self, computation: Computation, i: Instruction) -> float:
    """Returns the fraction of the matrix unit that products fill, per FLOP."""
    if i.opcode == 'custom-call':
      return self._share(self._head_width)
    inside = computation
    instructions: Iterable[Instruction] = [i]
    if i.opcode == 'fusion':
      inside = self._hlo.computations[i.attribute('calls')]
      instructions = inside.values()
    found = [hlo_cost.read_product(inside, x) for x in instructions]
    products = [p for p in found if p and p.flops]
    padded = sum(
      p.flops / self._share(p.contracted) / self._share(p.free)
      for p in products
    )
    return sum(p.flops for p in products) / padded if padded else 1.0

  def _share(self, length: int) -> float:
    return length / (-(-length // self._width) * self._width)


def _kind(i: Instruction, part: Part) -> str:
  """Returns the kind of operation, a key of `Estimate.parts`."""
  if i.opcode == 'custom-call' and part.mxu:
    return 'kernels'
  where = 'blocks' if _IN_BLOCKS.search(i.rest) else 'head, loss and optimiser'
  if part.mxu:
    return f'products: {where}'
  copies = i.opcode.startswith(('copy', 'slice', 'dynamic')) or not part.vector
  return f'{"copies" if copies else "other arithmetic"}: {where}'
