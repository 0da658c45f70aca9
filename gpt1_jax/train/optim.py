"""Schedules, and Adam with the modified L2, of the paper and of its code.

The `paper` variant reads P §4.1 plainly: it is optax.adamw, to the last digits
of float32. `openai` is what the released opt.py does, to the letter (REFERENCE
§3 lists the differences).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.settings import OptimSettings


def make_optimizer(
  settings: OptimSettings, num_steps: int
) -> tuple[optax.GradientTransformation, Callable[[jax.Array], jax.Array]]:
  """Returns the optimiser, and the learning rate of update t (first: t = 0)."""
  variant, schedule, peak_lr = (
    settings.variant,
    settings.schedule,
    settings.peak_lr,
  )
  b1, b2, eps, warmup = settings.b1, settings.b2, settings.eps, settings.warmup
  weight_decay, clip_norm = settings.weight_decay, settings.clip_norm
  warmup_steps = warmup if warmup >= 1 else warmup * num_steps
  rate = make_schedule(variant, schedule, peak_lr, warmup_steps, num_steps)

  def openai_rate(t):  # C: opt.py, the correction joins the rate
    c1, c2 = _correction(b1, t + 1), _correction(b2, t + 1)
    return rate(t) * jnp.sqrt(c2) / c1

  return optax.chain(
    clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
    optax.chain(
      scale_by_adam(b1, b2, eps, corrected=variant == 'paper'),
      optax.add_decayed_weights(weight_decay, mask=decayed),
      optax.scale_by_learning_rate(rate if variant == 'paper' else openai_rate),
    ),
  ), rate


def make_schedule(
  variant: str, schedule: str, peak_lr: float, warmup: float, num_steps: int
) -> Callable[[jax.Array], jax.Array]:
  """The learning rate of update t (the first has t = 0).

  paper: update t takes the rate at t + 1, so that none is wasted; the decay
  runs from the end of the warm-up to the end. openai: t is read before it is
  incremented, and the decay is a function of t / num_steps throughout
  (C: opt.py).
  """

  def decay(left):
    # sin^2(pi/2 (1 - x)) is 0.5 (1 + cos(pi x)) without its cancellation
    # at the end, where float32 would be off by parts in a hundred thousand.
    return left if schedule == 'linear' else jnp.sin(jnp.pi / 2 * left) ** 2

  def paper(t):
    t = jnp.asarray(t, jnp.float32) + 1.0
    left = (num_steps - t) / max(num_steps - warmup, 1.0)
    rising = t / max(warmup, 1e-9)
    return peak_lr * jnp.where(
      t <= warmup, rising, decay(jnp.clip(left, 0.0, 1.0))
    )

  def openai(t):
    t = jnp.asarray(t, jnp.float32)
    falling = decay((num_steps - t) / num_steps)
    rising = t / max(warmup, 1e-9)
    if schedule == 'linear':
      return peak_lr * jnp.where(t <= warmup, rising, 1.0) * falling
    return peak_lr * jnp.where(t <= warmup, rising, falling)

  return paper if variant == 'paper' else openai


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Gradients times one factor where their norm, over all, is above max_norm.

  optax's divides each of them, which XLA does in a pass of its own, for all of
  them at once: another gradient in memory. Products join those of the moments.
  """

  def update(grads, state, params=None):
    del params
    factor = max_norm / jnp.maximum(optax.tree.norm(grads), max_norm)
    return jax.tree.map(lambda g: g * factor, grads), state

  return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_adam(
  b1: float, b2: float, eps: float, *, corrected: bool
) -> optax.GradientTransformation:
  """Adam's direction, m / (sqrt(v) + eps), with moments corrected or not.

  Corrected, it is optax.scale_by_adam but for rounding: there 1 - b2^t comes
  of float32(0.999)^t, and every update is off by 7e-6 of itself. Uncorrected,
  eps joins the raw root and the rate is to carry the correction (C: opt.py).
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(grads, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    c1, c2 = _correction(b1, count), _correction(b2, count)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)

    def direction(m, v):
      if corrected:
        m, v = m / c1, v / c2
      return m / (jnp.sqrt(v) + eps)

    directions = jax.tree.map(direction, mu, nu)
    return directions, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(init, update)


def _correction(b: float, t: jax.Array) -> jax.Array:
  """1 - b^t, to a few units in float32's last place."""
  return -jnp.expm1(t * (math.log(b) if b else -math.inf))


def decayed(params: optax.Params) -> optax.Params:
  """True for weights, False for biases and gains, by name.

  By name and not by number of axes, because stacked layers give every tensor
  one more (C: train.py decays tensors with more than one axis, embeddings
  included).
  """

  def weight(path, _):
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    return names[-1] not in ('bias', 'scale')

  return jax.tree_util.tree_map_with_path(weight, params)
