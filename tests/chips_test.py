"""Tests the table of chips, and which topologies are refused."""

import os
import types

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import chips, telemetry


@pytest.mark.parametrize(
  ('kind', 'layout', 'links'),
  [
    ('TPU v5 lite', (2, 2), 2),
    ('TPU v5 lite', (16, 16), 4),
    ('TPU v5 lite', (8, 16), 3),
    ('TPU v4', (4, 4, 4), 6),
    ('TPU v4', (2, 2, 1), 2),
    ('cpu', (8,), 0),
  ],
)
def test_links_of_a_slice(kind, layout, links):
  device = types.SimpleNamespace(device_kind=kind)
  assert chips.Topology('x', 1, [device], layout).links == links


def test_peaks_by_device_kind():
  assert chips.lookup('TPU v5 lite').flops == 197e12
  assert chips.lookup('TPU v5p').flops == chips.lookup('TPU v5').flops == 459e12
  assert chips.lookup('TPU v3').flops == 61.5e12  # half a chip
  assert chips.lookup('TPU7x').hbm_bandwidth == 3690e9
  assert chips.lookup('NVIDIA H100 80GB HBM3').flops == 989e12
  assert chips.lookup('cpu') is None
  assert telemetry.peak_flops() is None


@pytest.mark.parametrize('name', ['v5e', 'v5e:', '2x2', 'v5e:2x2:1'])
def test_wrong_topology_is_refused(name):
  with pytest.raises(UserError, match=r'such as v5e:4x4'):
    chips.topology(name, 1)
  with pytest.raises(UserError, match=r'at least 1 slice'):
    chips.topology('v5e:2x2', 0)


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    ('JAX TPU support not installed; see', r"pip install '\.\[tpu\]'"),
    ('ABORTED: accessing libtpu multi-process lockfile', 'is using libtpu'),
    ('INVALID_ARGUMENT: not divisible by', 'topology=v5e:2x2: INVALID_ARG'),
  ],
)
def test_error_of_libtpu_becomes_one_line(monkeypatch, error, message):
  def refuse(**kwargs):
    assert os.environ['TPU_WORKER_HOSTNAMES'] == 'localhost'
    raise RuntimeError(error)

  monkeypatch.setattr(chips.topologies, 'get_topology_desc', refuse)
  before = dict(os.environ)
  with pytest.raises(UserError, match=message):
    chips.topology('v5e:2x2', 1)
  assert dict(os.environ) == before  # what this process starts has no TPU
