"""Tests meshes, the table of axes, and what each device holds."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain
from gpt1_jax import config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import losses, pretraining, sharding
from tests.support import networks, updates
from tests.support.meshes import make_mesh

# Parameter: the mesh axis of each of its axes. A block's first is the layers.
GPT_PLACES = {
  'tokens_embed': (None, 'fsdp'),
  'positions_embed': (None, 'fsdp'),
  'h/attn/c_attn/kernel': (None, 'fsdp', None, 'tensor', None),
  'h/attn/c_attn/bias': (None, None, 'tensor', None),
  'h/attn/c_proj/kernel': (None, 'tensor', None, 'fsdp'),
  'h/attn/c_proj/bias': (None, 'fsdp'),
  'h/ln_1/scale': (None, None),
  'h/ln_1/bias': (None, None),
  'h/mlp/c_fc/kernel': (None, 'fsdp', 'tensor'),
  'h/mlp/c_fc/bias': (None, 'tensor'),
  'h/mlp/c_proj/kernel': (None, 'tensor', 'fsdp'),
  'h/mlp/c_proj/bias': (None, 'fsdp'),
  'h/ln_2/scale': (None, None),
  'h/ln_2/bias': (None, None),
}
LSTM_PLACES = {
  'tokens_embed': (None, 'fsdp'),
  'c_proj/kernel': ('tensor', 'fsdp'),
  'c_proj/bias': ('fsdp',),
  **{f'lstm/i{gate}/kernel': ('fsdp', 'tensor') for gate in 'ifgo'},
  **{f'lstm/h{gate}/kernel': (None, 'tensor') for gate in 'ifgo'},
  **{f'lstm/h{gate}/bias': ('tensor',) for gate in 'ifgo'},
}


@pytest.mark.parametrize(
  ('preset', 'places', 'size'),
  [('paper', GPT_PLACES, 116_534_784), ('lstm,paper', LSTM_PLACES, 55_737_600)],
)
def test_every_parameter_is_placed_by_the_table(preset, places, size):
  values = pretrain.get_config(preset)
  values.data.path = 'not read'
  settings = config.parse(config.PretrainConfig, values.to_dict())
  model = pretraining.model_config(settings, 40478)
  state = pretraining.build(settings, model, make_mesh(2, 2, 2), 10).state
  adam = state.opt_state[1][0]
  for tree in (state.params['gpt'], adam.mu['gpt'], adam.nu['gpt']):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    names = {'/'.join(k.key for k in path): leaf for path, leaf in flat}
    assert {n: tuple(x.sharding.spec) for n, x in names.items()} == places
    assert sum(x.size for x in names.values()) == size
  for scalar in (state.step, adam.count):
    assert scalar.sharding.is_fully_replicated


def test_a_divided_optimizer_holds_its_part_of_the_moments():
  """Other axes keep what they shard; parameters stay whole over data."""
  mesh = make_mesh(2, 2, 2)
  state = updates.build(updates.UNROLLED, mesh, shard_optimizer=True).state
  whole = updates.build(updates.UNROLLED, mesh).state.params['gpt']
  adam = state.opt_state[1][0]
  kernel = adam.mu['gpt']['h']['mlp']['c_fc']['kernel'].sharding
  assert tuple(kernel.spec) == ('data', 'fsdp', 'tensor')
  for moments in (adam.mu['gpt'], adam.nu['gpt']):
    parts = jax.tree.map(_part, whole), jax.tree.map(_part, moments)
    # 101 rows do not divide, and fsdp has the columns.
    assert [tree.pop('tokens_embed') for tree in parts] == [101 * 64 / 2] * 2
    assert parts[0] == jax.tree.map(lambda x: 2 * x, parts[1])
  same = jax.tree.map(
    lambda x, y: x.sharding == y.sharding, state.params['gpt'], whole
  )
  assert all(jax.tree.leaves(same))


def _part(x):
  return math.prod(x.sharding.shard_shape(x.shape))


def test_constraints_reach_the_compiler():
  model, params = networks.GPT_CONFIG, networks.fresh(networks.GPT_CONFIG)
  tokens, mesh = jnp.zeros((8, 16), jnp.int32), make_mesh(2, 2, 2)

  def constraints():
    def forward(params):  # new each time: jit compiles again
      return gpt.GPT(model).apply({'params': params}, tokens, dropout_key=None)

    text = jax.jit(forward).lower(params).as_text()
    return text.count('sdy.sharding_constraint')

  with sharding.use(mesh):
    assert constraints() > 0
  with jax.set_mesh(mesh):  # the table of axes is not active
    assert constraints() == 0


def test_impossible_meshes_are_refused():
  mesh = make_mesh(2, 2, -1, devices=jax.devices())
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  for refused, message in (
    (lambda: make_mesh(3, 1, 1, devices=jax.devices()), '8 devices'),
    (lambda: make_mesh(-1, -1, 1, devices=jax.devices()), 'one may be -1'),
    (lambda: check(6, n_embd=64, n_head=4), 'batch_size 6'),
    (lambda: check(8, n_embd=64, n_head=3), 'n_head'),
    (lambda: check(8, n_embd=2, units=3), 'units 3 does not split evenly'),
    (lambda: sharding.host_rows(mesh, 6), 'batch_size 6'),
  ):
    with pytest.raises(UserError, match=message):
      refused()


def check(batch_size, **sizes):
  sharding.check_divides(make_mesh(2, 2, 2), batch_size, 1, **sizes)


def slices_of(sizes, per_process, per_slice):
  """Arranges eight devices of several slices; returns the slice of each."""
  devices = [
    types.SimpleNamespace(
      id=i,
      process_index=i // per_process,
      slice_index=i // per_slice,
      device_kind='cpu',
      platform='cpu',
    )
    for i in reversed(range(8))
  ]
  mesh = sharding.arrange(devices, sizes)
  assert len({device.id for device in mesh.flat}) == 8
  return np.vectorize(lambda device: device.slice_index)(mesh)


@pytest.mark.parametrize(
  ('sizes', 'across'),
  [
    ((8, 1, 1), (2, 1, 1)),
    ((-1, 2, 1), (2, 1, 1)),
    ((2, 4, 1), (2, 1, 1)),
    ((1, 8, 1), (1, 2, 1)),
    ((1, 2, 4), (1, 2, 1)),
    ((1, 1, 8), (1, 1, 2)),
  ],
)
def test_slices_are_joined_along_data_first(sizes, across):
  """Across slices, the slower network: data if possible."""
  slices = slices_of(sizes, per_process=2, per_slice=4)
  block = [n // a for n, a in zip(slices.shape, across, strict=True)]
  for place, found in np.ndenumerate(slices):
    assert found == sum(p // b for p, b in zip(place, block, strict=True))


def test_four_slices_share_data_and_fsdp():
  slices = slices_of((2, 4, 1), per_process=1, per_slice=2)
  assert slices[..., 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_padded_rows_are_no_part_of_the_softmax():
  """Compares value and gradients, with 5 rows over 4 devices."""
  keys = jax.random.split(jax.random.key(0), 3)
  h = jax.random.normal(keys[0], (4, 13, 8))
  table = jax.random.normal(keys[1], (5, 8))
  tokens = jax.random.randint(keys[2], (4, 13), 0, 5)
  weights = jnp.linspace(0.1, 1, 52).reshape(4, 13)
  loss = jax.value_and_grad(losses.lm_loss, argnums=(0, 1, 3))
  expected = loss(h, table, tokens, weights)
  for sizes in ((1, 1, 4), (2, 1, 4), (2, 2, 2), (4, 1, 1), (1, 4, 1)):
    with sharding.use(make_mesh(*sizes)):
      found = jax.jit(loss)(h, table, tokens, weights)
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
      np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())
