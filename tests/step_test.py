"""One update: the same on every mesh and however the batch is cut."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import optim, pretraining, sharding, step as step_lib
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
# Without a loop over the layers: what stands once in the text runs once.
UNROLLED = dataclasses.replace(gpt_test.SMALL, unroll=2)
BATCH = {
  'tokens': np.random.default_rng(0).integers(0, 101, (16, 16), np.int32),
  'lm_weights': np.ones((16, 16), np.float32),
}
BATCH['lm_weights'][3, 5:] = 0  # parts of unequal weight


def new_state(model, optimizer, seed=0):
  tokens = jnp.zeros((1, 8), jnp.int32)
  key = jax.random.key(seed)
  params = {'gpt': model.init(key, tokens, dropout_key=None)['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def settings(microbatches=1):
  return pretraining.Settings(
    pretraining.TrainSettings(
      num_steps=10,
      num_epochs=0.0,
      log_every=1,
      eval_every=10,
      checkpoint_every=10,
      keep=1,
      microbatches=microbatches,
      seed=7,
    ),
    pretraining.DataSettings(
      path='', batch_size=len(BATCH['tokens']), seed=0, cross_documents=True
    ),
    model={},
    # Adam divides a gradient by its own size, and with its 1e-8 a weight whose
    # gradient is as good as none takes the sign of a rounding error.
    optim={k: v for k, v in OPTIM.items() if k != 'num_steps'} | {'eps': 1e-2},
    mesh={},
  )


@functools.cache
def updated(microbatches=1, shape=(1, 1, 1), config=gpt_test.SMALL):
  """Metrics of one update, and the state after it."""
  devices = jax.devices()[: int(np.prod(shape))]
  mesh = sharding.make_mesh(
    devices, **dict(zip(sharding.MESH_AXES, shape, strict=True))
  )
  program = pretraining.build(settings(microbatches), config, mesh, 10)
  with sharding.use(mesh):
    seed = step_lib.place_seed(7, mesh)
    state, metrics = program.train_step(
      program.new_state(seed), sharding.put_batch(BATCH, mesh), seed
    )
    return jax.device_get((metrics, state))


def assert_same(a, b):
  """Loss and norm; then parameters and both moments, each by its largest."""
  for key in ('loss', 'grad_norm'):
    np.testing.assert_allclose(a[0][key], b[0][key], rtol=2e-6)
  assert int(a[1].step) == int(b[1].step) == 1
  for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.abs(y).max())


@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_equal_the_whole_batch_dropout_on(microbatches):
  assert_same(updated(microbatches), updated())


@pytest.mark.parametrize(
  'shape', [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2), (4, 2, 1)]
)
def test_every_mesh_gives_the_same_update_dropout_on(shape):
  assert_same(updated(1, shape), updated())


@pytest.mark.parametrize('shape', [(1, 1, 4), (2, 2, 2)])
def test_every_mesh_gives_the_same_update_as_released(shape):
  """Dropout on the matrix, which is the softmax's, positions included."""
  assert_same(
    updated(1, shape, gpt_test.OPENAI), updated(1, config=gpt_test.OPENAI)
  )


def test_the_same_seed_gives_the_same_bits():
  first = updated()
  updated.cache_clear()
  for x, y in zip(
    jax.tree.leaves(first), jax.tree.leaves(updated()), strict=True
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
