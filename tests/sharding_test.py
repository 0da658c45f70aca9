"""Tests meshes, the table of axes, and the traffic between devices."""

import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import pretrain
from gpt1_jax import config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import losses, optim, pretraining, sharding
from tests.support import networks, updates
from tests.support.meshes import make_mesh

# name: (layers,) and the axes of the mesh; optimiser state follows.
PLACES = {
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


def test_every_parameter_is_placed_by_the_table():
  mesh = make_mesh(2, 2, 2)
  values = pretrain.get_config('paper')
  values.data.path = 'not read'
  paper = config.parse(config.PretrainConfig, values.to_dict())
  model = pretraining.model_config(paper, 40478)
  state = pretraining.build(paper, model, mesh, 10).state
  adam = state.opt_state[1][0]
  for tree in (state.params['gpt'], adam.mu['gpt'], adam.nu['gpt']):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    names = {'/'.join(k.key for k in path): leaf for path, leaf in flat}
    assert {n: tuple(x.sharding.spec) for n, x in names.items()} == PLACES
    assert sum(x.size for x in names.values()) == 116_534_784
  for scalar in (state.step, adam.count):
    assert scalar.sharding.is_fully_replicated


COLLECTIVE = re.compile(
  r'= (?P<type>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|'
  r'collective-permute|collective-broadcast)(-start)?\('
)


def collectives(shape):
  """(kind, shape of an array, whether in a loop) of all that moves in a step.

  Those of groups of one device, which move nothing, are left out.
  """
  mesh = make_mesh(*shape)
  program = pretraining.build(
    updates.pretrain_config(), updates.UNROLLED, mesh, 10
  )
  found, inside = [], ''
  for line in program.lower().compile().as_text().splitlines():
    if header := re.match(r'(ENTRY )?%?[\w.\-]+ \(.*\{$', line):
      inside = header[1] is None
    match = COLLECTIVE.search(line)
    if match and not re.search(r'replica_groups=\{(\{\d+\},?)+\}', line):
      for dims in re.findall(r'\w\d+\[([\d,]*)\]', match['type']):
        dims = tuple(int(d) for d in dims.split(',') if d)
        found.append((match['kind'], dims, inside))
  return found


def size(found, kind):
  return sum(math.prod(dims) for k, dims, _ in found if k == kind)


# Of UNROLLED: the matrix's gradient is summed once for the softmax and once
# for the look-up; the CPU's compiler does not add before it sums.
ONCE = gpt.num_parameters(updates.UNROLLED) + 101 * 64


def test_data_reduces_gradients_and_nothing_else():
  found = collectives((8, 1, 1))
  assert {kind for kind, _, _ in found} == {'all-reduce'}
  assert not any(inside for _, _, inside in found)
  assert size(found, 'all-reduce') == ONCE + 2  # loss and weight


def test_fsdp_gathers_parameters_and_reduces_gradients():
  """The CPU's compiler has no reduce-scatter: it reduces, then slices."""
  found = collectives((1, 8, 1))
  assert {kind for kind, _, _ in found} == {'all-gather', 'all-reduce'}
  assert not any(inside for _, _, inside in found)
  model = updates.UNROLLED
  state = jax.eval_shape(
    lambda: nn.unbox(updates.new_state(gpt.GPT(model), optim_of_step()))
  )
  parameters = jax.tree.leaves(state.params['gpt'])
  # Of a layer, or of none; axes may be swapped, heads and their width be one.
  sizes = {math.prod(x.shape[i:]) for x in parameters for i in (0, 1)}
  for _, dims, _ in found:
    assert math.prod(dims) in sizes | {1}
  # For use and, but for the embeddings, again for the gradient.
  gathered = size(found, 'all-gather')
  assert gathered <= 2 * gpt.num_parameters(model) - 101 * 64 - 16 * 64
  scalars = sum(dims == () for _, dims, _ in found)
  assert size(found, 'all-reduce') - scalars == ONCE


def optim_of_step():
  return optim.make_optimizer(updates.OPTIM, 10)[0]


def test_tensor_reduces_what_a_block_hands_on():
  found = collectives((1, 1, 4))
  assert {kind for kind, _, _ in found} == {'all-reduce', 'all-gather'}
  B, T, D, L = 16, 16, 64, 2
  sums = [dims for kind, dims, _ in found if kind == 'all-reduce' and dims]
  # Two a block forward, two backward; the gradient of the softmax's input.
  states = [dims for dims in sums if math.prod(dims) == B * T * D]
  assert len(states) == 4 * L + 1
  # The softmax: its largest, its sum, the logit of the target.
  others = sorted(dims for dims in sums if dims not in states)
  assert others[:3] == [(B, T)] * 3
  # XLA of jax 0.12 divides the embedding's scatter among the devices as well.
  assert others[3:] in ([], [(26, 64)])
  # The matrix's gradient, in rows that divide by 4.
  gathers = [dims for kind, dims, _ in found if kind == 'all-gather']
  assert gathers == [(104, D)]


def test_constraints_are_in_the_compiled_text():
  program = pretraining.build(
    updates.pretrain_config(), updates.UNROLLED, make_mesh(2, 2, 2), 10
  )
  text = program.lower().compile().as_text()
  assert 'f32[4,16,64]' in text  # a quarter of the batch
  assert 'f32[4,16,3,2,16]' in text  # and half the heads
  assert 'f32[4,16,128]' in text  # and half the feed-forward
  assert 'f32[4,16,51]' in text  # and half the vocabulary, padded
  for whole in ('f32[16,16,64]', 'f32[16,16,3,', '[16,16,256]', ',16,101]'):
    assert whole not in text


def test_constraints_reach_the_compiler():
  model = gpt.GPT(networks.GPT_CONFIG)
  mesh = make_mesh(2, 2, 2)
  state = jax.eval_shape(
    lambda: nn.unbox(updates.new_state(model, optim_of_step()))
  )

  def forward(params):
    tokens = jnp.zeros((8, 16), jnp.int32)
    return model.apply({'params': params}, tokens, dropout_key=None)[0]

  with sharding.use(mesh):
    text = jax.jit(forward).lower(state.params['gpt']).as_text()
  constraints = text.count('sdy.sharding_constraint')
  with jax.set_mesh(mesh):  # the table is not in force: silently nothing
    text = jax.jit(lambda p: forward(p)).lower(state.params['gpt']).as_text()
  assert constraints > text.count('sdy.sharding_constraint') == 0


def test_impossible_meshes_are_refused():
  with pytest.raises(UserError, match='8 devices'):
    make_mesh(3, 1, 1, devices=jax.devices())
  with pytest.raises(UserError, match='one may be -1'):
    make_mesh(-1, -1, 1, devices=jax.devices())
  mesh = make_mesh(2, 2, -1, devices=jax.devices())
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  with pytest.raises(UserError, match=r'batch_size 6'):
    sharding.check_divides(mesh, 6, 1, n_embd=64, n_head=4)
  with pytest.raises(UserError, match='n_head'):
    sharding.check_divides(mesh, 8, 1, n_embd=64, n_head=3)
  with pytest.raises(UserError, match=r'batch_size 6'):
    sharding.host_rows(mesh, 6)


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
  """Across slices, the slower network: data if it can be."""
  devices = [
    types.SimpleNamespace(
      id=i,
      process_index=i // 2,
      slice_index=i // 4,
      device_kind='cpu',
      platform='cpu',
    )
    for i in reversed(range(8))
  ]
  mesh = sharding.arrange(devices, sizes)
  slices = np.vectorize(lambda device: device.slice_index)(mesh)
  assert len({device.id for device in mesh.flat}) == 8
  block = [n // a for n, a in zip(mesh.shape, across, strict=True)]
  for place, found in np.ndenumerate(slices):
    along = [p // b for p, b in zip(place, block, strict=True)]
    assert found == sum(along)


def test_four_slices_share_data_and_fsdp():
  devices = [
    types.SimpleNamespace(
      id=i,
      process_index=i,
      slice_index=i // 2,
      device_kind='cpu',
      platform='cpu',
    )
    for i in range(8)
  ]
  mesh = sharding.arrange(devices, (2, 4, 1))
  slices = np.vectorize(lambda device: device.slice_index)(mesh)
  assert slices[..., 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_padded_rows_are_no_part_of_the_softmax():
  """Value and gradients of both operands, with 5 rows over 4 devices."""
  keys = jax.random.split(jax.random.key(0), 3)
  h = jax.random.normal(keys[0], (4, 13, 8))
  table = jax.random.normal(keys[1], (5, 8))
  tokens = jax.random.randint(keys[2], (4, 13), 0, 5)
  weights = jnp.linspace(0.1, 1, 52).reshape(4, 13)
  loss = jax.value_and_grad(losses.lm_loss, argnums=(0, 1, 3))
  expected = loss(h, table, tokens, weights)
  for sizes in ((1, 1, 4), (2, 1, 4), (2, 2, 2), (4, 1, 1)):
    with sharding.use(make_mesh(*sizes)):
      found = jax.jit(loss)(h, table, tokens, weights)
    for x, y in zip(
      jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())
