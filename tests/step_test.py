"""One update: the same on every mesh and however the batch is cut."""

import functools

import jax
import numpy as np
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import optim, sharding, step as step_lib
from tests.support import networks
from tests.support.updates import (
  BATCH,
  OPTIM,
  assert_same_update,
  loss_after_repeating_a_batch,
  new_state,
  one_update,
)


@pytest.mark.parametrize('microbatches', [2, 4])
def test_microbatches_equal_the_whole_batch_dropout_on(microbatches):
  assert_same_update(one_update(microbatches), one_update())


@pytest.mark.parametrize(
  'shape', [(8, 1, 1), (1, 8, 1), (1, 1, 4), (2, 2, 2), (4, 2, 1)]
)
def test_every_mesh_gives_the_same_update_dropout_on(shape):
  assert_same_update(one_update(1, shape), one_update())


@pytest.mark.parametrize('shape', [(1, 1, 4), (2, 2, 2)])
def test_every_mesh_gives_the_same_update_as_released(shape):
  """Dropout on the matrix, which is the softmax's, positions included."""
  assert_same_update(
    one_update(1, shape, networks.RELEASED_CONFIG),
    one_update(1, config=networks.RELEASED_CONFIG),
  )


def test_the_same_seed_gives_the_same_bits():
  first = one_update()
  one_update.cache_clear()
  for x, y in zip(
    jax.tree.leaves(first), jax.tree.leaves(one_update()), strict=True
  ):
    np.testing.assert_array_equal(x, y)


def test_seeds_share_what_is_compiled_and_keep_their_bits():
  model = gpt.GPT(networks.GPT_CONFIG)
  mesh = sharding.make_mesh(jax.devices(), data=2, fsdp=2, tensor=2)
  optimizer, rate = optim.make_optimizer(OPTIM, 10)
  with sharding.use(mesh):
    seeds = [step_lib.place_seed(seed, mesh) for seed in (7, 2**31 - 1)]
    make, shardings = sharding.jit_init(
      functools.partial(new_state, model, optimizer), mesh, seeds[0]
    )
    args = (
      step_lib.pretrain_loss(model),
      optim.Optimizer(optimizer, rate),
      shardings,
    )
    args = (*args, sharding.batch_sharding(mesh))
    shared = step_lib.jit_seeded_step(*args, microbatches=1)
    batch = sharding.put_batch(BATCH, mesh)
    found = [shared(make(seed), batch, seed) for seed in seeds]
    assert (make._cache_size(), shared._cache_size()) == (1, 1)
    constant = jax.jit(
      functools.partial(
        step_lib.train_step,
        loss_fn=args[0],
        optimizer=optim.Optimizer(optimizer, rate),
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


def test_a_repeated_batch_is_learned():
  assert loss_after_repeating_a_batch(gpt.GPT(networks.GPT_CONFIG)) < 0.1
