"""One update: the same on every mesh and with any number of microbatches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.train import optim, sharding, step
from tests.support import networks, updates
from tests.support.updates import BATCH, OPTIM, one_update

GPT, LSTM = networks.GPT_CONFIG, networks.LSTM_CONFIG
RELEASED = networks.RELEASED_CONFIG  # its softmax includes the positions


def slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ('config', 'microbatches', 'mesh'),
  [
    (GPT, 2, (1, 1, 1)),
    slow(GPT, 4, (1, 1, 1)),
    slow(GPT, 1, (8, 1, 1)),
    slow(GPT, 1, (1, 8, 1)),
    slow(GPT, 1, (1, 1, 4)),
    (GPT, 1, (2, 2, 2)),
    slow(GPT, 1, (4, 2, 1)),
    slow(RELEASED, 1, (1, 1, 4)),
    slow(RELEASED, 1, (2, 2, 2)),
    slow(LSTM, 2, (1, 1, 1)),
    slow(LSTM, 1, (1, 1, 4)),
    slow(LSTM, 1, (2, 2, 2)),
  ],
)
def test_meshes_and_microbatches_give_the_same_update(
  config, microbatches, mesh
):
  """Dropout is on; in RELEASED on the matrix of the softmax, too."""
  found = one_update(microbatches, mesh, config)
  updates.assert_same_update(found, one_update(config=config))


def test_the_same_seed_gives_the_same_bits():
  updates.assert_same_bits(one_update.__wrapped__(), one_update())


def test_seeds_share_what_is_compiled_and_keep_their_bits():
  model = models.new(GPT)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer = optim.make_optimizer(OPTIM, 10)
  with sharding.use(mesh):
    seeds = [step.place_seed(seed, mesh) for seed in (7, 2**31 - 1)]
    make, shardings = sharding.jit_init(
      functools.partial(updates.new_state, model, optimizer.transform),
      mesh,
      seeds[0],
    )
    placed = sharding.batch_sharding(mesh)
    loss_fn = step.pretrain_loss(model)
    shared = step.jit_seeded_step(
      loss_fn, optimizer, shardings, placed, microbatches=1
    )
    batch = sharding.put_batch(BATCH, mesh)
    found = [shared(make(seed), batch, seed) for seed in seeds]
    assert (make._cache_size(), shared._cache_size()) == (1, 1)
    constant = updates.jit_step(
      model,
      optimizer,
      seed=2**31 - 1,
      in_shardings=(shardings, placed),
      out_shardings=(shardings, None),
    )
    updates.assert_same_bits(found[1], constant(make(seeds[1]), batch))
  assert float(found[0][1]['loss']) != float(found[1][1]['loss'])
  with pytest.raises(UserError, match=r'config\.train\.seed is -1'):
    step.place_seed(-1, mesh)


LEARNING_LSTM = dataclasses.replace(
  LSTM, units=128, n_embd=64, embd_pdrop=0.0, output_pdrop=0.0
)


@pytest.mark.parametrize(
  ('config', 'bound'),
  [(GPT, 0.1), slow(LEARNING_LSTM, 0.05)],
  ids=['gpt', 'lstm'],
)
def test_a_repeated_batch_is_learned(config, bound):
  """Updates 200 times on two rows."""
  model, settings = models.new(config), dataclasses.replace(OPTIM, peak_lr=1e-2)
  optimizer = optim.make_optimizer(settings, 200)
  state = nn.unbox(updates.new_state(model, optimizer.transform))
  train_step = updates.jit_step(model, optimizer)
  batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), BATCH)
  for _ in range(200):
    state, metrics = train_step(state, batch)
  assert float(metrics['loss']) < bound
