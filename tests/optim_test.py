"""Schedules and updates against numpy, for both variants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import optim

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


def numpy_rate(variant, schedule, t, warmup=5.0, steps=20, peak=1e-2):
  if variant == 'paper':
    t += 1
    if t <= warmup:
      return peak * t / warmup
    x = (t - warmup) / (steps - warmup)
    decay = 0.5 * (1 + np.cos(np.pi * x)) if schedule == 'cosine' else 1 - x
    return peak * decay
  x, w = t / steps, warmup / steps
  if schedule == 'cosine':
    return peak * (x / w if x <= w else 0.5 * (1 + np.cos(np.pi * x)))
  return peak * (x / w if x <= w else 1) * (1 - x)


@pytest.mark.parametrize('variant', ['paper', 'openai'])
@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
def test_twenty_updates_equal_numpy(variant, schedule):
  tx, rate = optim.make_optimizer(
    **{**BASE, 'schedule': schedule}, variant=variant
  )
  rng = np.random.default_rng(0)
  params = {
    'kernel': rng.normal(size=(3, 4)),
    'bias': rng.normal(size=(3, 4)),  # stacked layers: two axes, no decay
  }
  ours = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  state = tx.init(ours)
  m = {k: np.zeros_like(v) for k, v in params.items()}
  v = {k: np.zeros_like(x) for k, x in params.items()}
  for t in range(20):
    grads = {k: rng.normal(size=x.shape) for k, x in params.items()}
    updates, state = tx.update(
      jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads), state, ours
    )
    ours = optax.apply_updates(ours, updates)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    lr = numpy_rate(variant, schedule, t)
    assert float(rate(t)) == pytest.approx(lr, rel=2e-5, abs=1e-9)
    for k, p in params.items():
      g = grads[k] * min(1.0, 1.0 / norm)
      m[k] = 0.9 * m[k] + 0.1 * g
      v[k] = 0.999 * v[k] + 0.001 * g * g
      c1, c2 = 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
      l2 = 0.01 * p if k == 'kernel' else 0.0
      if variant == 'paper':
        params[k] = p - lr * (m[k] / c1 / (np.sqrt(v[k] / c2) + 1e-8) + l2)
      else:
        lr_t = lr * np.sqrt(c2) / c1
        params[k] = p - lr_t * (m[k] / (np.sqrt(v[k]) + 1e-8) + l2)
  for k, p in params.items():
    np.testing.assert_allclose(ours[k], p, rtol=2e-5, atol=2e-6)


def test_first_and_last_rates():
  _, paper = optim.make_optimizer(**BASE, variant='paper')
  _, openai = optim.make_optimizer(**BASE, variant='openai')
  assert float(paper(0)) == pytest.approx(2e-3)
  assert float(openai(0)) == 0.0
  assert float(paper(4)) == pytest.approx(1e-2)
  assert float(paper(19)) == pytest.approx(0.0, abs=1e-9)


def test_wrong_settings_are_named():
  with pytest.raises(UserError, match='variant'):
    optim.make_optimizer(**BASE, variant='adam')
  with pytest.raises(UserError, match='peak_lr'):
    optim.make_optimizer(**{**BASE, 'peak_lr': 0.0}, variant='paper')
