"""Peaks of accelerators, and topologies of TPUs, present or not.

A device is an entry of `jax.devices()`: half a chip on v2, v3 and TPU7x. Peaks,
HBM and its bandwidth: docs/reference.md §5. The usable HBM of a TPU is what its
compiler (libtpu 0.0.40) lets a program use; v2's reserve is assumed to be v3's.
Link rates follow the published bandwidth between chips (Google Cloud's pages of
each version; 4 x 496 and 4 x 656 Gbit/s for v2 and v3, 6 x 50 GB/s for v4). The
rate between slices is published for v5e and v5p, and assumed to be v5e's
elsewhere.
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


@dataclasses.dataclass(frozen=True)
class Chip:
  """The peaks of one device; shared parts of a chip are divided by `devices`.

  Attributes:
    flops: in bfloat16, FLOP/s.
    hbm_bytes: that a program may use; 0 if not known.
    hbm_bandwidth: bytes/s.
    link_bandwidth: of one link in one direction, bytes/s.
    torus: an axis of a slice is a ring if its length is a multiple of this.
    dcn_bandwidth: between slices, bytes/s.
    devices: per chip.
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
  """Returns a device, given its chip's figures.

  Args:
    tflops: TFLOP/s.
    gib: usable HBM of a device, not of the chip.
    gbps: HBM, GB/s.
    links: GB/s of a link, and `Chip.torus`.
    dcn: between slices, GB/s.
    devices: per chip.
  """
  link, torus = links
  return Chip(
    tflops * 1e12 / devices,
    gib * GIB,
    gbps * 1e9 / devices,
    link * 1e9 / devices,
    torus,
    dcn * 1e9 / devices,
    devices,
  )


# By jax's device_kind.
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
  """Returns the peaks of a device, None if they are not known (CPU)."""
  for name in sorted(CHIPS, key=len, reverse=True):
    if device_kind.startswith(name):
      return CHIPS[name]
  return None


@dataclasses.dataclass(frozen=True)
class Topology:
  """One or more slices of TPUs, or the devices of this machine.

  Attributes:
    name: of a slice, such as 'v5e:4x4', or 'local'.
    slices: number of slices.
    devices: jax's, of all slices.
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
    """Links from a chip to other chips of its slice."""
    chip = lookup(self.kind)
    if chip is None or not chip.torus:
      return 0
    return sum(
      0 if n == 1 else 2 if n % chip.torus == 0 else 1 for n in self.layout
    )


def topology(name: str, slices: int) -> Topology:
  """Returns devices to compile for, without the hardware.

  Args:
    name: version and layout of a slice ('v5e:4x4', 'v4:2x2x1', 'TPU7x:2x2x1'),
      or 'local'.
    slices: number of such slices.

  Raises:
    UserError: there is no such slice, or libtpu is missing.
  """
  if name == 'local':
    return Topology(name, 1, jax.devices(), (len(jax.devices()),))
  found = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
  if not found or slices < 1:
    raise UserError(
      f'--topology={name} --slices={slices}: a topology is a version and a '
      'layout, such as v5e:4x4 or v4:2x2x1, and slices are 1 or more'
    )
  layout = tuple(map(int, found[2].split('x')))
  options: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if found[1] == 'v4':  # its two cores work as one device
    options['chip_config_name'] = 'megacore'
  if math.prod(layout) < 4:  # part of a host
    options['chips_per_host_bounds'] = (*layout, 1, 1)[:3]
  # Otherwise libtpu queries the machine for its TPU.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  try:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=name, **options
    )
  except Exception as error:
    raise UserError(_explain(name, str(error))) from None
  devices = list(described.devices)
  if len(devices) % (slices * math.prod(layout)):
    raise UserError(f'--topology={name}: gave {len(devices)} devices')
  return Topology(name, slices, devices, layout)


def _explain(name: str, error: str) -> str:
  """Returns libtpu's error as one line."""
  text = ' '.join(error.split())
  if 'lockfile' in text:
    return (
      f'--topology={name}: another process of this machine uses libtpu, and '
      'only one can; wait for it'
    )
  if 'not installed' in text or 'libtpu' in text:
    return (
      f"{name}: libtpu is not installed: pip install '.[tpu]' ({text[:120]})"
    )
  return f'--topology={name}: {text[:300]}'
