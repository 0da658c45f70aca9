"""Finds the collective operations of a compiled program and their sizes."""

import dataclasses
import math
import re
from typing import Literal

from gpt1_jax.compiler.hlo_text import Computation, HloText, Instruction

_KINDS = re.compile(
  'all-reduce|all-gather|reduce-scatter|(ragged-)?all-to-all|'
  'collective-(permute|broadcast)'
)
Network = Literal['ici', 'dcn']

_CHAIN = re.compile(r'channel_id=(\d+).*chain_id="?(\d+)')
_MEGASCALE = re.compile(
  r'_xla_megascale_target="\{([\d,]+)\}.*_xla_megascale_transfer_type="(\w+)"'
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation; identical ones are counted together.

  Attributes:
    kind: operation, such as 'all-reduce'.
    bytes: size of the full array that one execution reduces, gathers, scatters
      or sends, without padding.
    count: executions per call of the program.
    devices: number of participating devices; of slices if over 'dcn'.
    network: 'ici' within a slice, 'dcn' between slices.
  """

  kind: str
  bytes: int
  count: int
  devices: int
  network: Network

  @property
  def total_bytes(self) -> int:
    return self.bytes * self.count


def find(hlo: HloText) -> list[Collective]:
  """Returns a program's collectives, with identical ones counted together.

  The TPU compiler splits an overlapped operation into a chain of instructions,
  which counts once.
  """
  counts: dict[Collective, int] = {}
  chains: set[tuple[str, ...]] = set()
  for name, i, count in hlo.walk():
    found = read(hlo, name, i)
    if found and (chain(i) is None or chain(i) not in chains):
      counts[found] = counts.get(found, 0) + count
    chains.update(filter(None, [chain(i)]))
  return [dataclasses.replace(c, count=n) for c, n in counts.items()]


def chain(i: Instruction) -> tuple[str, ...] | None:
  """Returns an id that all instructions of one overlapped operation share."""
  found = _CHAIN.search(i.rest)
  return found.groups() if found else None


def read(hlo: HloText, name: str, i: Instruction) -> Collective | None:
  """Parses an instruction as a collective; returns None for others.

  The TPU compiler's fusions named `all-reduce-scatter` are reduce-scatters.
  Transfers between slices are sends to the hosts (megascale), which reduce.

  Args:
    hlo: the program.
    name: the computation that holds the instruction.
    i: the instruction.
  """
  kind = i.opcode.removesuffix('-start')
  size = _operand_bytes(hlo.computations[name], i)
  sent = _MEGASCALE.search(i.rest) if kind == 'send' else None
  if sent:
    kind = sent[2].lower().replace('_', '-')
    return Collective(kind, size, 1, int(sent[1].split(',')[-1]), 'dcn')
  if not _KINDS.fullmatch(kind):
    return None
  devices = group_size(i.rest, hlo.num_devices)
  size *= devices if kind == 'all-gather' else 1
  if name.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'
  return Collective(kind, size, 1, devices, 'ici')


def _operand_bytes(computation: Computation, i: Instruction) -> int:
  names = i.operands[:1] if i.opcode == 'send' else i.operands
  return sum(
    array.data_bytes
    for name in names
    if name in computation
    for array in computation[name].arrays
  )


def group_size(attributes: str, num_devices: int) -> int:
  """Returns the number of devices in one group of a collective.

  Args:
    attributes: the instruction's attributes. Groups are written as
      `{{0,2},{1,3}}`, as `[2,2]<=[4]`, or as mesh axes:
      `mesh['a'=4,'b'=2] {'a':(2)2,'b'}`, where `'a':(2)2` is a part of axis a
      with size 2.
    num_devices: group size if the attributes list no groups.
  """
  groups = re.search(
    r'(?:replica_groups|source_target_pairs)=\{\{([\d, ]+)\}', attributes
  )
  if groups:
    return groups[1].count(',') + 1
  iota = re.search(r'replica_groups=\[[\d,]*?(\d+)\]<=', attributes)
  if iota:
    return int(iota[1])
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}', attributes
  )
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  return num_devices
