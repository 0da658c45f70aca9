"""Tests which gradients config.mesh.reduce_dtype rounds, and by how much."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from gpt1_jax import config as config_lib
from gpt1_jax.config import FinetuneConfig, PretrainConfig
from gpt1_jax.errors import UserError
from tests.support import networks, updates
from tests.support.meshes import make_mesh

GPT = dataclasses.replace(networks.GPT_CONFIG, dtype='bfloat16')
ROOT = pathlib.Path(__file__).parents[1]


def gradients_of(shape, dtype, microbatches=1, shard_optimizer=False):
  """Returns name -> gradient (times 1 - b1) of one update."""
  _, state = updates.one_update(
    microbatches, shape, GPT, shard_optimizer, dtype
  )
  moments = [x for x in jax.tree.leaves_with_path(state.opt_state) if x[1].ndim]
  first = moments[: len(moments) // 2]
  return {jax.tree_util.keystr(path): x for path, x in first}


@pytest.mark.parametrize(
  ('shape', 'microbatches', 'shard_optimizer'),
  [
    ((2, 2, 2), 1, False),
    ((8, 1, 1), 2, True),
    pytest.param((8, 1, 1), 1, True, marks=pytest.mark.slow),
    pytest.param((1, 8, 1), 1, False, marks=pytest.mark.slow),
    pytest.param((8, 1, 1), 1, False, marks=pytest.mark.slow),
    pytest.param((2, 4, 1), 2, False, marks=pytest.mark.slow),
  ],
)
def test_matrices_are_summed_in_bfloat16(shape, microbatches, shard_optimizer):
  """Checks that exactly the gradients that `MeshSettings` names are rounded."""
  run = (microbatches, shard_optimizer)
  exact = gradients_of(shape, 'float32', *run)
  rounded = gradients_of(shape, 'bfloat16', *run)
  changed = set()
  for name, expected in exact.items():
    if np.array_equal(rounded[name], expected):
      continue
    changed.add(name)
    error = np.abs(rounded[name] - expected).max()
    assert error <= 2**-6 * np.abs(expected).max(), name
  kernels = {name for name in exact if 'kernel' in name}
  assert len(kernels) == 4
  assert changed >= kernels
  apart = shape[0] > 1 and (microbatches > 1 or shard_optimizer)
  assert any('tokens_embed' in name for name in changed) == (
    apart or shape[1] > 1
  )
  assert any('bias' in name or 'ln_' in name for name in changed) == apart


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 1, 4)])
def test_devices_with_the_same_rows_sum_and_round_nothing(shape):
  mesh = make_mesh(*shape)
  programs = {
    updates.build(GPT, mesh, reduce_dtype=dtype).lower().as_text()
    for dtype in ('float32', 'bfloat16')
  }
  assert len(programs) == 1


RUNS = pytest.mark.parametrize(
  ('kind', 'folder'), [(PretrainConfig, 'law'), (FinetuneConfig, 'tasks')]
)


def configurations(folder):
  """Reads the configurations of earlier runs, which lack the setting."""
  files = sorted((ROOT / 'docs/results' / folder).rglob('config.json'))
  assert files
  return [json.loads(file.read_text())['config'] for file in files]


@RUNS
def test_a_model_in_float32_is_refused(kind, folder):
  values = configurations(folder)[0]
  values['model']['dtype'] = 'float32'
  values['mesh']['reduce_dtype'] = 'bfloat16'
  message = (
    "config: mesh.reduce_dtype is 'bfloat16': needs "
    '--config.model.dtype=bfloat16'
  )
  with pytest.raises(UserError) as error:
    config_lib.parse(kind, values)
  assert str(error.value) == message


@RUNS
def test_runs_from_before_the_setting_are_read(kind, folder):
  for values in configurations(folder):
    assert config_lib.parse(kind, values).mesh.reduce_dtype == 'float32'
