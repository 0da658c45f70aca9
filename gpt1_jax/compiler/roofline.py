"""Bounds the time of a step from below, with every part at its peak rate."""

import dataclasses
from collections.abc import Sequence

from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.train import chips

ASSUMPTIONS = (
  'each chip computes at its bf16 peak and moves data at its peak HBM '
  'bandwidth; computation, HBM traffic and collectives overlap perfectly; data '
  'in VMEM causes no HBM traffic; a collective is a ring over all links of the '
  'slice (2 (n-1)/n of the bytes for an all-reduce, (n-1)/n for a gather or a '
  'scatter); slices communicate at the rate of the data-centre network. Model '
  'FLOPs count attention in full while the kernel skips masked positions, so '
  'utilisation may exceed 100%'
)


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Minimum seconds for each part of a step; see ASSUMPTIONS.

  Attributes:
    compute: arithmetic.
    hbm: HBM reads and writes.
    ici: collectives within a slice.
    dcn: collectives between slices.
  """

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def step_seconds(self) -> float:
    """Time of the longest part."""
    return max(dataclasses.astuple(self))

  @property
  def bottleneck(self) -> str:
    """Name of the longest part."""
    parts = dataclasses.asdict(self)
    return max(parts, key=lambda name: parts[name])


def bound(
  flops: float,
  hbm_bytes: float,
  collectives: Sequence[Collective],
  topology: chips.Topology,
) -> Roofline | None:
  """Computes the roofline of a step on one device.

  Args:
    flops: FLOPs of a step.
    hbm_bytes: bytes read and written in HBM.
    collectives: the step's collectives.
    topology: gives the chip and its links.

  Returns:
    None if the chip's peaks are unknown.
  """
  chip = chips.lookup(topology.kind)
  if not chip:
    return None
  seconds = {'ici': 0.0, 'dcn': 0.0}
  rates = {
    'ici': topology.links * chip.link_bandwidth,
    'dcn': chip.dcn_bandwidth,
  }
  for c in collectives:
    n, rate = c.devices, rates[c.network]
    if n > 1 and rate:
      passes = 2 if c.kind == 'all-reduce' else 1
      share = 1.0 if c.kind == 'collective-permute' else (n - 1) / n
      seconds[c.network] += passes * share * c.total_bytes / rate
  compute, hbm = flops / chip.flops, hbm_bytes / chip.hbm_bandwidth
  return Roofline(compute, hbm, **seconds)
