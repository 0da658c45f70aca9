"""Schedules and updates of both variants against numpy and optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt1_jax.model import gpt
from gpt1_jax.train import optim, step
from tests.support import networks, reference, updates

PAPER = dataclasses.replace(updates.OPTIM, peak_lr=1e-2, warmup=5.0)
OPENAI = dataclasses.replace(PAPER, variant='openai')


def rate_of(settings, num_steps, **changes):
  settings = dataclasses.replace(settings, **changes)
  return optim.make_optimizer(settings, num_steps).learning_rate


@pytest.mark.parametrize('settings', [PAPER, OPENAI], ids=lambda s: s.variant)
@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
@pytest.mark.parametrize('warmup', [0.0, 5.0, 300.0])
def test_rates_equal_numpy(settings, schedule, warmup):
  """Compares to 1e-6; `paper` near 0 to float32's rounding of the peak.

  There optax's schedules subtract numbers of the size of the peak.
  """
  rate = rate_of(settings, 3000, schedule=schedule, warmup=warmup)
  got = jax.jit(jax.vmap(rate))(jnp.arange(3000))
  assert got[0] == 0.0 if settings is OPENAI else got[0] > 0
  chosen = {'peak_lr': 1e-2, 'warmup': warmup, 'num_steps': 3000}
  chosen |= {'variant': settings.variant, 'schedule': schedule}
  expected = [reference.learning_rate(t, **chosen) for t in range(1, 3000)]
  atol = 1e-16 if settings is OPENAI else 2**-24 * 1e-2
  np.testing.assert_allclose(got[1:], expected, rtol=1e-6, atol=atol)


def test_first_and_last_rates():
  paper, openai = rate_of(PAPER, 20), rate_of(OPENAI, 20)
  assert float(paper(0)) == pytest.approx(2e-3)
  assert float(openai(0)) == 0.0
  assert float(paper(4)) == pytest.approx(1e-2)
  assert float(paper(19)) == 0.0
  # 0.2% of 10,000 updates are 20.
  rate = rate_of(PAPER, 10_000, warmup=0.002, schedule='linear')
  assert float(rate(19)) == pytest.approx(1e-2)
  assert float(rate(18)) < float(rate(19)) > float(rate(20))


def test_a_warm_up_longer_than_the_run_never_decays():
  rates = [float(rate_of(PAPER, 3)(t)) for t in range(3)]
  np.testing.assert_allclose(rates, [2e-3, 4e-3, 6e-3], rtol=1e-6)


@pytest.mark.parametrize(
  ('settings', 'schedule'),
  [
    (PAPER, 'cosine'),
    (OPENAI, 'linear'),
    pytest.param(PAPER, 'linear', marks=pytest.mark.slow),
    pytest.param(OPENAI, 'cosine', marks=pytest.mark.slow),
  ],
)
def test_twenty_updates_equal_numpy(settings, schedule):
  """Updates a whole model: dropout, clipping, decay, schedule.

  Numpy updates its own float64 parameters with the gradients of the step. Each
  tensor, stacked layers included, ends within 1e-6 of its norm and, element by
  element, of its largest element. Numpy takes the bias corrections of `paper`
  from optax, which rounds them in float32: see the next test.
  """
  released = settings is OPENAI
  config = networks.RELEASED_CONFIG if released else networks.GPT_CONFIG
  settings = dataclasses.replace(settings, schedule=schedule)
  made = optim.make_optimizer(settings, 20)
  noted = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda grads, state, params: (grads, grads),
  )
  optimizer = made._replace(transform=optax.chain(noted, made.transform))
  tokens = jax.random.randint(jax.random.key(2), (4, 16), 0, 101)
  batch = {'tokens': tokens, 'lm_weights': jnp.ones((4, 16))}
  params = {'gpt': networks.gpt_params(config)}
  opt_state = optimizer.transform.init(params)
  state = step.TrainState(jnp.zeros([], jnp.int32), params, opt_state)
  train_step = updates.jit_step(gpt.GPT(config), optimizer)
  # Biases start at zero: all of their value comes from the updates.
  params = flat64(params)
  m = {name: np.zeros_like(x) for name, x in params.items()}
  v = dict(m)
  clipped = 0
  for t in range(20):
    before = jax.device_get(state.params)
    state, metrics = train_step(state, batch)
    grads = flat64(state.opt_state[0])
    clipped += float(metrics['grad_norm']) > 1
    reference.update(
      t,
      params,
      grads,
      m,
      v,
      corrections=None if released else optax_corrections(t + 1),
      **dataclasses.asdict(settings),
      num_steps=20,
    )
    if t == 0 and released:  # the first update has a rate of 0
      updates.assert_same_bits(before, state.params)
  assert clipped > 10
  for name, x in flat64(state.params).items():
    error, y = x - params[name], params[name]
    assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(y), name
    assert np.abs(error).max() <= 1e-6 * np.abs(y).max(), name


def flat64(tree):
  return reference.flat(reference.float64(jax.device_get(tree)))


def optax_corrections(count):
  """Returns optax's 1 - b1^count and 1 - b2^count."""
  one = jnp.float32(1)
  return tuple(
    1 / float(optax.tree.bias_correction(one, b, jnp.int32(count)))
    for b in (PAPER.b1, PAPER.b2)
  )


@pytest.mark.parametrize('count', [1, 2, 3, 10, 20, 1000])
def test_bias_corrections_of_optax_round_in_float32(count):
  """Rounds b to float32, then the power, then the inverse."""
  found = optax_corrections(count)
  for b, correction in zip((PAPER.b1, PAPER.b2), found, strict=True):
    bound = (count * b ** (count - 1) + 1) * 2**-25 + 2**-24 * correction
    assert abs(correction - (1 - b**count)) <= bound


@pytest.mark.parametrize('config', [networks.GPT_CONFIG, networks.LSTM_CONFIG])
def test_weights_are_decayed_biases_and_gains_are_not(config):
  decayed = reference.flat(optim.decayed(networks.fresh(config)))
  assert decayed == {name: reference.is_weight(name) for name in decayed}
  assert decayed['tokens_embed']
