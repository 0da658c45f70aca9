"""One update: the same on every mesh and with any number of microbatches."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.errors import RunError, UserError
from gpt1_jax.model import models
from gpt1_jax.train import (
  gradients,
  loop,
  norms,
  optim,
  sharding,
  step,
)
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


@pytest.mark.parametrize('mesh', [(1, 1, 1), (2, 2, 2)])
def test_the_norms_of_the_layers_make_up_that_of_the_gradient(mesh):
  metrics, _ = one_update(1, mesh)
  found = metrics['layer_grad_norms']
  assert found.keys() == {'layer', 'tokens_embed', 'positions_embed'}
  assert found['layer'].shape == (GPT.n_layer,)
  squares = sum(np.square(x).sum() for x in found.values())
  assert np.sqrt(squares) == pytest.approx(metrics['grad_norm'], rel=1e-6)


def test_norms_are_those_of_each_layer():
  blocks = {'kernel': jnp.array([[[3.0], [4.0]], [[0.0], [2.0]]])}
  head = {'bias': jnp.array([1.0, 2.0]), 'kernel': jnp.array([[2.0]])}
  tree = {'gpt': {'h': blocks, 'tokens_embed': jnp.full(4, 2.0)}, 'head': head}
  assert norms.named(norms.by_layer(tree), 'norm') == {
    'norm/layer_00': 5.0,
    'norm/layer_01': 2.0,
    'norm/tokens_embed': 4.0,
    'norm/head': 3.0,
  }


@pytest.mark.parametrize(
  ('config', 'mesh', 'shard_optimizer'),
  [
    (GPT, (8, 1, 1), True),
    slow(GPT, (8, 1, 1), False),
    slow(GPT, (2, 2, 2), True),
    slow(GPT, (2, 2, 2), False),
    slow(RELEASED, (2, 2, 2), True),
    slow(LSTM, (4, 2, 1), True),
  ],
)
def test_sums_on_each_device_give_the_same_update(
  config, mesh, shard_optimizer
):
  found = one_update(2, mesh, config, shard_optimizer)
  updates.assert_same_update(found, one_update(config=config))


def test_the_same_seed_gives_the_same_bits():
  again = updates.recomputed(1, (1, 1, 1), GPT, False)
  updates.assert_same_bits(again, one_update())


def test_seeds_share_compiled_code_and_keep_their_bits():
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
      loss_fn, optimizer, shardings, placed, plan=gradients.Plan()
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


def test_updates_that_are_not_finite_are_skipped_and_counted():
  """The third batch has no finite loss, the fourth no finite gradient."""

  def loss_fn(params, batch, dropout_key, example_ids_B, mean=False):
    del dropout_key, example_ids_B, mean
    loss = jnp.sqrt(params['w'] * batch['x']).mean()
    return step.LossOutput(loss, jnp.float32(1), {})

  mesh = sharding.make_mesh(jax.devices()[:1], data=1, fsdp=1, tensor=1)
  placed = sharding.replicated(mesh)
  optimizer = optim.make_optimizer(OPTIM, 10)
  params = {'w': jnp.ones(4)}
  first = step.TrainState(
    jnp.int32(0), params, optimizer.transform.init(params)
  )
  train_step = step.jit_seeded_step(
    loss_fn,
    optimizer,
    placed,
    placed,
    plan=gradients.Plan(),
    skip_nonfinite=True,
  )
  log = mock.Mock()
  reports = loop._Reports(log, 2)
  states = [jax.device_put(first, placed)]
  for number, x in enumerate([1.0, 2.0, -1.0, 0.0, -1.0], start=1):
    batch = {'x': jnp.full(4, x)}
    new, metrics = train_step(
      jax.tree.map(jnp.copy, states[-1]), batch, step.place_seed(0, mesh)
    )
    states.append(new)
    reports.add(loop._Metrics(number, metrics, 4))
  assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
  arrays = [
    [x for x in jax.tree.leaves((state.params, state.opt_state)) if x.ndim]
    for state in states
  ]
  assert not np.array_equal(arrays[1][0], arrays[2][0])
  for skipped in arrays[3:]:
    updates.assert_same_bits(skipped, arrays[2])
  said = [call.args for call in log.skipped.call_args_list]
  assert said == [
    (3, 'loss is nan at update 3: skipped', 1, 2),
    (4, 'grad_norm is nan at update 4: skipped', 2, 2),
  ]
  with pytest.raises(RunError, match='loss is nan at update 5: the run stops'):
    reports.flush()
