"""A lower bound on the time of a step: each part at its published peak."""

import dataclasses
from collections.abc import Sequence

from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.train import chips

ASSUMPTIONS = (
  'each chip computes at its bf16 peak, moves HBM at its peak bandwidth and '
  'does all of it, collectives included, at the same time; what lies in VMEM '
  'costs no HBM traffic; a collective uses every link of the slice, as a ring '
  'does (2 (n-1)/n of the bytes for an all-reduce, (n-1)/n for a gather or a '
  'scatter); between slices the rate of the data-centre network; model FLOPs '
  'count attention in full, and the kernel skips what lies ahead, so that a '
  'utilisation may pass 100%'
)


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds that each part of a step takes at least; see ASSUMPTIONS.

  Attributes:
    compute: of the arithmetic.
    hbm: of reading and writing HBM.
    ici: of collectives within a slice.
    dcn: of collectives between slices.
  """

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def step_seconds(self) -> float:
    """The longest part."""
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
  """Returns the roofline of a step on one device.

  Args:
    flops: operations of a step.
    hbm_bytes: read and written in HBM.
    collectives: of a step.
    topology: names the chip, None is returned if its peaks are not known, and
      its links.
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
