"""Lists accelerator peaks, and describes TPU topologies to compile for.

A device is an entry of `jax.devices()`: half a chip on v2, v3 and TPU7x.
docs/reference.md §5 gives sources for peaks, HBM sizes and HBM bandwidths. A
TPU's usable HBM is what its compiler (libtpu 0.0.40) lets a program use; v2 is
assumed to reserve as much as v3. Link rates follow the published bandwidth
between chips (Google Cloud's page for each version; 4 x 496 and 4 x 656 Gbit/s
for v2 and v3, 6 x 50 GB/s for v4). The rate between slices is published for v5e
and v5p only; other versions are assumed to match v5e.
"""

import dataclasses
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from gpt1_jax.errors import UserError

GIB = 2**30
# Without these variables libtpu queries the machine for its TPU.
_NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak rates of one device, which may be half a chip.

  Attributes:
    flops: bfloat16 FLOP/s.
    hbm_bytes: HBM that a program may use; 0 if unknown.
    hbm_bandwidth: bytes/s.
    link_bandwidth: bytes/s of one link in one direction.
    torus: a slice axis is a ring if its length is a multiple of this.
    dcn_bandwidth: bytes/s between slices.
    devices: devices per chip.
  """

  flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  link_bandwidth: float = 0.0
  torus: int = 0
  dcn_bandwidth: float = 3.125e9
  devices: int = 1


def _tpu(
  tflops: float,
  gib: float,
  gbps: float,
  links: tuple[float, int],
  dcn: float = 3.125,
  devices: int = 1,
) -> Chip:
  """Converts figures per chip, except `gib`, to figures per device.

  Args:
    tflops: TFLOP/s of the chip.
    gib: usable HBM of one device.
    gbps, links, dcn: GB/s of HBM, of a link (and `Chip.torus`), between slices.
    devices: devices per chip.
  """
  flops, hbm, link, between = (
    x / devices for x in (tflops * 1e12, gbps * 1e9, links[0] * 1e9, dcn * 1e9)
  )
  return Chip(flops, gib * GIB, hbm, link, links[1], between, devices)


# Keyed by jax's device_kind.
CHIPS = {
  'TPU v2': _tpu(46, 7.48, 700, (62, 16), devices=2),
  'TPU v3': _tpu(123, 15.48, 900, (82, 32), devices=2),
  'TPU v4': _tpu(275, 30.75, 1228, (50, 4)),
  'TPU v5 lite': _tpu(197, 15.75, 819, (50, 16)),
  'TPU v5e': _tpu(197, 15.75, 819, (50, 16)),
  'TPU v5': _tpu(459, 95.74, 2765, (100, 4), 6.25),
  'TPU v5p': _tpu(459, 95.74, 2765, (100, 4), 6.25),
  'TPU v6 lite': _tpu(918, 31.25, 1640, (100, 16)),
  'TPU v6e': _tpu(918, 31.25, 1640, (100, 16)),
  'TPU7x': _tpu(2307, 94.75, 7380, (100, 4), devices=2),
  'NVIDIA A100': Chip(312e12, 0, 2039e9),
  'NVIDIA H100': Chip(989e12, 80e9, 3350e9),
  'NVIDIA H200': Chip(989e12, 141e9, 4800e9),
}


def lookup(device_kind: str) -> Chip | None:
  """Returns the peaks of a device, or None if unknown (as for a CPU)."""
  for name in sorted(CHIPS, key=len, reverse=True):
    if device_kind.startswith(name):
      return CHIPS[name]
  return None


@dataclasses.dataclass(frozen=True)
class Topology:
  """One or more TPU slices, or the devices of this machine.

  Attributes:
    name: name of the slice, such as 'v5e:4x4', or 'local'.
    slices: number of slices.
    devices: the jax devices of all slices.
    layout: chips along each axis of one slice.
  """

  name: str
  slices: int
  devices: list[Any]
  layout: tuple[int, ...]

  @property
  def kind(self) -> str:
    """The device_kind of every device."""
    return self.devices[0].device_kind

  @property
  def links(self) -> int:
    """Number of links from a chip to other chips in its slice."""
    chip = lookup(self.kind)
    if chip is None or not chip.torus:
      return 0
    return sum(
      0 if n == 1 else 2 if n % chip.torus == 0 else 1 for n in self.layout
    )


def topology(name: str, slices: int) -> Topology:
  """Returns devices to compile for; they need not be attached.

  Args:
    name: version and layout of a slice ('v5e:4x4', 'v4:2x2x1', 'TPU7x:2x2x1'),
      or 'local'.
    slices: number of slices.

  Raises:
    UserError: the slice does not exist, or libtpu is missing.
  """
  if name == 'local':
    return Topology(name, 1, jax.devices(), (len(jax.devices()),))
  found = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  if not found or slices < 1:
    raise UserError(
      f'--topology={name} --slices={slices}: give a version and a layout, '
      'such as v5e:4x4 or v4:2x2x1, and at least 1 slice'
    )
  layout = tuple(map(int, found[2].split('x')))
  options: dict[str, object] = {'num_slices': slices} if slices > 1 else {}
  if found[1] == 'v4':  # its two cores form one device
    options['chip_config_name'] = 'megacore'
  if math.prod(layout) < 4:  # part of a host
    options['chips_per_host_bounds'] = (*layout, 1, 1)[:3]
  added = {key: _NO_TPU[key] for key in set(_NO_TPU) - set(os.environ)}
  os.environ.update(added)
  try:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **options
    )
  except Exception as error:
    raise UserError(_explain(name, str(error))) from None
  finally:  # a command that this process starts is not on a TPU
    for key in added:
      os.environ.pop(key, None)
  devices = list(described.devices)
  if len(devices) % (slices * math.prod(layout)):
    raise UserError(
      f'--topology={name}: unexpected number of devices, {len(devices)}'
    )
  return Topology(name, slices, devices, layout)


def _explain(name: str, error: str) -> str:
  """Formats libtpu's error as one line."""
  text = ' '.join(error.split())
  if 'lockfile' in text:
    return (
      f'--topology={name}: another process on this machine is using libtpu; '
      'wait for it to finish'
    )
  if 'not installed' in text or 'libtpu' in text:
    missing = "libtpu is not installed: pip install '.[tpu]'"
    return f'{name}: {missing} ({text[:120]})'
  return f'--topology={name}: {text[:300]}'
