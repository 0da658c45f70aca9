"""Builds learning-rate schedules, and Adam with decoupled weight decay.

The `paper` variant follows P §4.1 literally and is optax's AdamW. `openai`
reproduces the released opt.py, which differs from optax (docs/reference.md §3).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.settings import OptimSettings
from gpt1_jax.train import hosts

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


class Optimizer(NamedTuple):
  """An optimiser and its learning-rate schedule.

  Attributes:
    learning_rate: maps the number of updates done to the next learning rate.
  """

  transform: optax.GradientTransformation
  learning_rate: Schedule


def make_optimizer(settings: OptimSettings, num_steps: int) -> Optimizer:
  """Builds the optimiser of a run of `num_steps` updates."""
  warmup = settings.warmup
  if warmup < 1:
    warmup *= num_steps
  if settings.variant == 'paper':
    learning_rate = _paper_schedule(settings, warmup, num_steps)
    betas, decay = (settings.b1, settings.b2), settings.weight_decay
    adam = optax.adamw(
      learning_rate, *betas, settings.eps, weight_decay=decay, mask=decayed
    )
  else:
    learning_rate = _openai_schedule(settings, warmup, num_steps)
    adam = _openai_adam(settings, learning_rate)
  clip = settings.clip_norm
  clipping = optax.clip_by_global_norm(clip) if clip else optax.identity()
  return Optimizer(optax.chain(clipping, adam), learning_rate)


def warn_of_warmup(settings: OptimSettings, num_steps: int) -> None:
  """Prints a warning if the warm-up does not end before the run."""
  if settings.warmup >= max(num_steps, 1):
    hosts.say(
      f'warning: config.optim.warmup is {settings.warmup:g} updates, and the '
      f'run has {num_steps}: the learning rate does not reach '
      f'config.optim.peak_lr ({settings.peak_lr:g}); give more epochs or text, '
      'or a share of the updates: --config.optim.warmup=0.1'
    )


def _paper_schedule(
  settings: OptimSettings, warmup: float, num_steps: int
) -> Schedule:
  """Warms up to peak_lr, then decays to 0 at the end of the run.

  Update t uses the schedule at t + 1, so that no learning rate is 0.
  """
  end = max(num_steps, warmup + 1)
  if settings.schedule == 'cosine':
    rate = optax.warmup_cosine_decay_schedule(
      0.0, settings.peak_lr, warmup, end
    )
  else:
    rising = optax.linear_schedule(0.0, settings.peak_lr, warmup)
    falling = optax.linear_schedule(settings.peak_lr, 0.0, end - warmup)
    rate = optax.join_schedules([rising, falling], [warmup])
  return lambda t: rate(jnp.asarray(t, jnp.float32) + 1.0)


def _openai_schedule(
  settings: OptimSettings, warmup: float, num_steps: int
) -> Schedule:
  """Decays as a function of t / num_steps, warm-up included (C: opt.py).

  Update t uses the schedule at t, so that the first learning rate is 0.
  """

  def learning_rate(t: jax.typing.ArrayLike) -> jax.Array:
    t = jnp.asarray(t, jnp.float32)
    left, rising = (num_steps - t) / num_steps, t / max(warmup, 1e-9)
    if settings.schedule == 'linear':
      return settings.peak_lr * jnp.where(t <= warmup, rising, 1.0) * left
    # 0.5 (1 + cos(pi x)), without cancellation near the end.
    falling = jnp.sin(jnp.pi / 2 * left) ** 2
    return settings.peak_lr * jnp.where(t <= warmup, rising, falling)

  return learning_rate


def _openai_adam(
  settings: OptimSettings, learning_rate: Schedule
) -> optax.GradientTransformation:
  """Builds Adam as in the released code (C: opt.py).

  The bias corrections multiply the learning rate. Hence eps is added to the
  uncorrected root, and the corrections scale the weight decay too.
  """
  b1, b2 = settings.b1, settings.b2

  def corrected_rate(t: jax.typing.ArrayLike) -> jax.Array:
    correction1, correction2 = (_bias_correction(b, t + 1) for b in (b1, b2))
    return learning_rate(t) * jnp.sqrt(correction2) / correction1

  def init(params: optax.Params) -> optax.ScaleByAdamState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(
    grads: optax.Updates,
    state: optax.ScaleByAdamState,
    params: optax.Params | None = None,
  ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
    del params
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
    directions = jax.tree.map(
      lambda m, v: m / (jnp.sqrt(v) + settings.eps), mu, nu
    )
    count = optax.safe_increment(state.count)
    return directions, optax.ScaleByAdamState(count, mu, nu)

  return optax.chain(
    optax.GradientTransformation(init, update),
    optax.add_decayed_weights(settings.weight_decay, mask=decayed),
    optax.scale_by_learning_rate(corrected_rate),
  )


def _bias_correction(b: float, t: jax.typing.ArrayLike) -> jax.Array:
  """Returns 1 - b^t, accurate to a few float32 ulps."""
  return -jnp.expm1(t * (math.log(b) if b else -math.inf))


def decayed(params: optax.Params) -> optax.Params:
  """Returns a tree of bools: True for weights, False for biases and gains.

  The released train.py decays every tensor with more than one axis, embeddings
  included. Here names decide, because stacking layers adds an axis.
  """

  def is_weight(path: jax.tree_util.KeyPath, _: jax.Array) -> bool:
    # A box of logical axes adds a key that is not a name.
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    return names[-1] not in ('bias', 'scale')

  return jax.tree_util.tree_map_with_path(is_weight, params)
