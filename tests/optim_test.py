"""Schedules and updates against numpy, for both variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import optim, step as step_lib
from tests.support import networks, reference

BASE = {
  'schedule': 'cosine',
  'peak_lr': 1e-2,
  'warmup': 5.0,
  'b1': 0.9,
  'b2': 0.999,
  'eps': 1e-8,
  'weight_decay': 0.01,
  'clip_norm': 1.0,
  'num_steps': 20,
}
BOTH = pytest.mark.parametrize('variant', ['paper', 'openai'])
EACH = pytest.mark.parametrize('schedule', ['cosine', 'linear'])


@BOTH
@EACH
@pytest.mark.parametrize('warmup', [0.0, 5.0, 300.0])
def test_rates_equal_numpy(variant, schedule, warmup):
  settings = {
    'schedule': schedule,
    'peak_lr': 1e-2,
    'warmup': warmup,
    'num_steps': 3000,
  }
  _, rate = optim.make_optimizer(**{**BASE, **settings}, variant=variant)
  got = jax.jit(jax.vmap(rate))(jnp.arange(3000))
  assert got[0] == 0.0 if variant == 'openai' else got[0] > 0
  expected = [
    reference.learning_rate(t, variant=variant, **settings)
    for t in range(1, 3000)
  ]
  np.testing.assert_allclose(got[1:], expected, rtol=1e-6, atol=1e-16)


def close(ours, expected):
  """Each tensor, by its norm and by its largest element, to 1e-6."""
  for name, x in reference.flat(ours).items():
    y = expected[name]
    error = np.asarray(x, np.float64) - y
    assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(y), name
    assert np.abs(error).max() <= 1e-6 * np.abs(y).max(), name


@BOTH
@EACH
def test_twenty_updates_equal_numpy(variant, schedule):
  """Of a whole model, in its real step: dropout, clipping, decay, schedule.

  The gradients are the step's own; numpy goes its own way with them in
  float64. Every parameter tensor, stacked layers included, ends within 1e-6 of
  its norm (and of its largest element, element by element: elements that pass
  through zero have no scale of their own).
  """
  config = networks.GPT_CONFIG
  if variant == 'openai':
    config = networks.RELEASED_CONFIG
  settings = {**BASE, 'schedule': schedule, 'variant': variant}
  optimizer, rate = optim.make_optimizer(**settings)
  noted = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda grads, state, params: (grads, grads),
  )
  optimizer = optax.chain(noted, optimizer)
  model = gpt.GPT(config)
  tokens = jax.random.randint(jax.random.key(2), (4, 16), 0, 101)
  params = {'gpt': networks.gpt_params(config)}
  state = step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )
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
  # Biases start at zero, so that they are made of updates alone.
  params = reference.flat(reference.float64(jax.device_get(params)))
  m = {name: np.zeros_like(x) for name, x in params.items()}
  v = dict(m)
  batch = {'tokens': tokens, 'lm_weights': jnp.ones((4, 16))}
  clipped = 0
  for t in range(20):
    before = jax.device_get(state.params)
    state, metrics = step(state, batch)
    grads = reference.flat(
      reference.float64(jax.device_get(state.opt_state[0]))
    )
    clipped += float(metrics['grad_norm']) > 1
    reference.update(t, params, grads, m, v, **settings)
    if t == 0 and variant == 'openai':  # the first update has rate 0
      for x, y in zip(
        jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True
      ):
        np.testing.assert_array_equal(x, y)
  assert clipped > 10
  close(jax.device_get(state.params), params)


def test_the_paper_variant_is_adamw():
  """It is optax's own, but for its rounding of 1 - b2^t."""
  ours, rate = optim.make_optimizer(**BASE, variant='paper')
  theirs = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(rate, 0.9, 0.999, 1e-8, weight_decay=0.01, mask=optim.decayed),
  )
  params = {'kernel': jnp.ones((3, 4)), 'bias': jnp.zeros((3, 4))}
  states = [tx.init(params) for tx in (ours, theirs)]
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  rng = np.random.default_rng(0)
  for _ in range(20):
    grads = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params
    )
    a, states[0] = ours.update(grads, states[0], params)
    b, states[1] = theirs.update(grads, states[1], params)
    for name in params:
      error = np.linalg.norm(a[name] - b[name])
      assert error <= 2e-5 * np.linalg.norm(b[name])
    params = optax.apply_updates(params, a)


def test_weights_are_decayed_biases_and_gains_are_not():
  params = {
    'gpt': nn.unbox(networks.fresh_gpt(networks.GPT_CONFIG)[1]['params'])
  }
  for name, is_decayed in reference.flat(optim.decayed(params)).items():
    assert is_decayed == reference.is_weight(name), name
  assert optim.decayed(params)['gpt']['tokens_embed']


def test_first_and_last_rates():
  _, paper = optim.make_optimizer(**BASE, variant='paper')
  _, openai = optim.make_optimizer(**BASE, variant='openai')
  assert float(paper(0)) == pytest.approx(2e-3)
  assert float(openai(0)) == 0.0
  assert float(paper(4)) == pytest.approx(1e-2)
  assert float(paper(19)) == 0.0
  share = {**BASE, 'warmup': 0.002, 'num_steps': 10_000, 'schedule': 'linear'}
  _, rate = optim.make_optimizer(**share, variant='paper')
  assert float(rate(19)) == pytest.approx(1e-2)  # 0.2% are 20 updates
  assert float(rate(18)) < float(rate(19)) > float(rate(20))


def test_wrong_settings_are_named():
  with pytest.raises(UserError, match='variant'):
    optim.make_optimizer(**BASE, variant='adam')
  with pytest.raises(UserError, match='peak_lr'):
    optim.make_optimizer(**{**BASE, 'peak_lr': 0.0}, variant='paper')
