"""One update: the same on every mesh and however the batch is cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import optim, sharding, step as step_lib
from tests import gpt_test

OPTIM = {
  'variant': 'paper',
  'schedule': 'cosine',
  'peak_lr': 1e-3,
  'warmup': 0.0,
  'b1': 0.9,
  'b2': 0.999,
  'eps': 1e-8,
  'weight_decay': 0.01,
  'clip_norm': 1.0,
  'num_steps': 10,
}
MODEL = gpt.GPT(gpt_test.SMALL)
BATCH = {
  'tokens': np.random.default_rng(0).integers(0, 101, (16, 16), np.int32),
  'weights': np.ones((16, 16), np.float32),
}
BATCH['weights'][3, 5:] = 0  # parts of unequal weight


def new_state(model, optimizer, seed=0):
  tokens = jnp.zeros((1, 8), jnp.int32)
  key = jax.random.key(seed)
  params = {'gpt': model.init(key, tokens, seed_2=None)['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


@functools.cache
def gradient(microbatches=1, shape=(1, 1, 1), model=MODEL):
  """Loss, and the gradient of one update (an optimiser that hands it on)."""
  devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
  mesh = jax.sharding.Mesh(
    devices,
    sharding.MESH_AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )
  optimizer, rate = optim.make_optimizer(**OPTIM)
  with sharding.use(mesh):
    state, shardings = sharding.init_state(
      functools.partial(new_state, model, optimizer), mesh
    )
    step = step_lib.jit_train_step(
      step_lib.pretrain_loss(model),
      optimizer,
      rate,
      shardings,
      sharding.batch_sharding(mesh),
      microbatches=microbatches,
      seed=7,
    )
    state, metrics = step(state, sharding.put_batch(BATCH, mesh))
    mu = state.opt_state[1][0].mu  # 0.1 x the clipped gradient
    return jax.device_get((metrics, mu, state.params))


def assert_same(a, b):
  for key in ('loss', 'grad_norm'):
    np.testing.assert_allclose(a[0][key], b[0][key], rtol=2e-6)
  for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_equal_the_whole_batch_dropout_on(microbatches):
  assert_same(gradient(microbatches), gradient())


@pytest.mark.parametrize(
  'shape', [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2), (4, 2, 1)]
)
def test_every_mesh_gives_the_same_update_dropout_on(shape):
  assert_same(gradient(1, shape), gradient())


def test_the_same_seed_gives_the_same_bits():
  first = gradient()
  gradient.cache_clear()
  for x, y in zip(
    jax.tree.leaves(first), jax.tree.leaves(gradient()), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_seeds_share_what_is_compiled_and_keep_their_bits():
  model = gpt.GPT(gpt_test.SMALL)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer, rate = optim.make_optimizer(**OPTIM)
  with sharding.use(mesh):
    seeds = [step_lib.place_seed(seed, mesh) for seed in (7, 2**31 - 1)]
    make, shardings = sharding.jit_init(
      functools.partial(new_state, model, optimizer), mesh, seeds[0]
    )
    args = (step_lib.pretrain_loss(model), optimizer, rate, shardings)
    args = (*args, sharding.batch_sharding(mesh))
    shared = step_lib.jit_seeded_step(*args, microbatches=1)
    batch = sharding.put_batch(BATCH, mesh)
    found = [shared(make(seed), batch, seed) for seed in seeds]
    assert (make._cache_size(), shared._cache_size()) == (1, 1)
    constant = jax.jit(
      functools.partial(
        step_lib.train_step,
        loss_fn=args[0],
        optimizer=optimizer,
        rate=rate,
        microbatches=1,
        seed=2**31 - 1,
      ),
      in_shardings=(shardings, args[-1]),
      out_shardings=(shardings, None),
    )
    expected = constant(make(seeds[1]), batch)
    for x, y in zip(
      jax.tree.leaves(found[1]), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_array_equal(x, y)
    bound = step_lib.jit_train_step(*args, microbatches=1, seed=7)
    state, _ = bound(make(seeds[0]), batch)
    np.testing.assert_array_equal(
      state.params['gpt']['tokens_embed'],
      found[0][0].params['gpt']['tokens_embed'],
    )
  assert float(found[0][1]['loss']) != float(found[1][1]['loss'])
  with pytest.raises(UserError, match=r'config\.train\.seed is -1'):
    step_lib.place_seed(-1, mesh)


def loss_after_repeating_a_batch(model):
  optimizer, rate = optim.make_optimizer(
    **{**OPTIM, 'peak_lr': 1e-2, 'num_steps': 200}
  )
  state = nn.unbox(new_state(model, optimizer))
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      loss_fn=step_lib.pretrain_loss(model),
      optimizer=optimizer,
      rate=rate,
      microbatches=1,
      seed=0,
    )
  )
  batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), BATCH)
  for _ in range(200):
    state, metrics = step(state, batch)
  return float(metrics['loss'])


def test_a_repeated_batch_is_learned():
  assert loss_after_repeating_a_batch(gpt.GPT(gpt_test.SMALL)) < 0.1


def test_constraints_reach_the_compiler():
  model = gpt.GPT(gpt_test.SMALL)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer, _ = optim.make_optimizer(**OPTIM)
  state = jax.eval_shape(lambda: nn.unbox(new_state(model, optimizer)))

  def forward(params):
    tokens = jnp.zeros((8, 16), jnp.int32)
    return model.apply({'params': params}, tokens, seed_2=None)[0]

  with sharding.use(mesh):
    text = jax.jit(forward).lower(state.params['gpt']).as_text()
  constraints = text.count('sdy.sharding_constraint')
  with jax.set_mesh(mesh):  # the table is not in force: silently nothing
    text = jax.jit(lambda p: forward(p)).lower(state.params['gpt']).as_text()
  assert constraints > text.count('sdy.sharding_constraint') == 0


def test_every_parameter_is_placed_by_the_table():
  model = gpt.GPT(gpt_test.SMALL)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer, _ = optim.make_optimizer(**OPTIM)
  abstract = jax.eval_shape(lambda: new_state(model, optimizer))
  shardings = sharding.state_shardings(abstract, mesh).params['gpt']
  flat = jax.tree_util.tree_leaves_with_path(shardings)
  specs = {'/'.join(k.key for k in path): tuple(s.spec) for path, s in flat}
  assert specs == {
    'tokens_embed': (None, 'fsdp'),
    'positions_embed': (None, 'fsdp'),
    'h/attn/c_attn/kernel': (None, 'fsdp', None, 'tensor', None),
    'h/attn/c_attn/bias': (None, None, 'tensor', None),
    'h/attn/c_proj/kernel': (None, 'tensor', None, 'fsdp'),
    'h/attn/c_proj/bias': (None, 'fsdp'),
    'h/ln_1/scale': (None, None),
    'h/ln_1/bias': (None, None),
    'h/ln_2/scale': (None, None),
    'h/ln_2/bias': (None, None),
    'h/mlp/c_fc/kernel': (None, 'fsdp', 'tensor'),
    'h/mlp/c_fc/bias': (None, 'tensor'),
    'h/mlp/c_proj/kernel': (None, 'tensor', 'fsdp'),
    'h/mlp/c_proj/bias': (None, 'fsdp'),
  }


def test_impossible_meshes_are_refused():
  with pytest.raises(UserError, match='8 devices'):
    sharding.make_mesh(jax.devices(), data=3, fsdp=1, tensor=1)
  with pytest.raises(UserError, match='one may be -1'):
    sharding.make_mesh(jax.devices(), data=-1, fsdp=-1, tensor=1)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=-1)
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}
  with pytest.raises(UserError, match=r'batch_size 6'):
    sharding.check_divides(mesh, 6, 1, n_embd=64, n_head=4)
  with pytest.raises(UserError, match='n_head'):
    sharding.check_divides(mesh, 8, 1, n_embd=64, n_head=3)
