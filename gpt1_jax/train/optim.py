"""Schedules, and Adam with the modified L2, of the paper and of its code.

The `paper` variant reads P §4.1 plainly and is made of optax; `openai` is what
the released opt.py does, to the letter (REFERENCE §3 lists the differences).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.errors import UserError

VARIANTS = ('paper', 'openai')
SCHEDULES = ('cosine', 'linear')


def make_optimizer(
  *,
  variant: str,
  schedule: str,
  peak_lr: float,
  warmup: float,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
  num_steps: int,
) -> tuple[optax.GradientTransformation, Callable[[jax.Array], jax.Array]]:
  """The optimiser and its learning rate as a function of the update's index.

  Args:
    variant: 'paper' or 'openai'.
    schedule: 'cosine' (P §4.1, pretraining) or 'linear' (fine-tuning).
    peak_lr: the rate at the end of the warm-up.
    warmup: updates if at least 1, else a share of all updates.
    b1, b2, eps: Adam's.
    weight_decay: decoupled L2 on all weights that are not bias or gain.
    clip_norm: global norm to which gradients are clipped; 0 switches it off.
    num_steps: updates in all.

  Raises:
    UserError: a value out of range.
  """
  for name, value, allowed in (
    ('variant', variant, VARIANTS),
    ('schedule', schedule, SCHEDULES),
  ):
    if value not in allowed:
      raise UserError(
        f'optim.{name} is {value!r}: one of ' + ', '.join(allowed)
      )
  if peak_lr <= 0 or warmup < 0 or clip_norm < 0 or weight_decay < 0:
    raise UserError(
      'optim.peak_lr must be positive; warmup, clip_norm and weight_decay '
      'not negative'
    )
  warmup_steps = warmup if warmup >= 1 else warmup * num_steps
  rate = make_schedule(variant, schedule, peak_lr, warmup_steps, num_steps)
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  if variant == 'paper':
    adam = optax.adamw(
      rate, b1, b2, eps, weight_decay=weight_decay, mask=decayed
    )
  else:
    adam = openai_adam(rate, b1, b2, eps, weight_decay)
  return optax.chain(clip, adam), rate


def make_schedule(
  variant: str, schedule: str, peak_lr: float, warmup: float, num_steps: int
) -> Callable[[jax.Array], jax.Array]:
  """The learning rate of update t (the first has t = 0).

  paper: update t takes the rate at t + 1, so that none is wasted; the decay
  runs from the end of the warm-up to the end. openai: t is read before it is
  incremented, and the decay is a function of t / num_steps throughout
  (C: opt.py).
  """

  def paper(t):
    t = jnp.asarray(t, jnp.float32) + 1.0
    x = jnp.clip((t - warmup) / max(num_steps - warmup, 1.0), 0.0, 1.0)
    decay = 1 - x if schedule == 'linear' else 0.5 * (1 + jnp.cos(jnp.pi * x))
    return peak_lr * jnp.where(t <= warmup, t / max(warmup, 1e-9), decay)

  def openai(t):
    x = jnp.asarray(t, jnp.float32) / num_steps
    w = warmup / num_steps
    decay = 1 - x if schedule == 'linear' else 0.5 * (1 + jnp.cos(jnp.pi * x))
    if schedule == 'linear':
      return peak_lr * jnp.where(x <= w, x / max(w, 1e-9), 1.0) * decay
    return peak_lr * jnp.where(x <= w, x / max(w, 1e-9), decay)

  return paper if variant == 'paper' else openai


def openai_adam(
  rate: Callable[[jax.Array], jax.Array],
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
) -> optax.GradientTransformation:
  """Adam of the released code (C: opt.py).

  lr_t = rate(t) sqrt(1 - b2^(t+1)) / (1 - b1^(t+1));
  p -= lr_t (m / (sqrt(v) + eps) + weight_decay p): eps joins the uncorrected
  root, and the decay is scaled by the corrected rate.
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(grads, state, params):
    t = state.count.astype(jnp.float32) + 1.0
    lr = rate(state.count) * jnp.sqrt(1 - b2**t) / (1 - b1**t)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)

    def delta(m, v, p, decay):
      l2 = weight_decay * p if decay else 0.0
      return -lr * (m / (jnp.sqrt(v) + eps) + l2)

    deltas = jax.tree.map(delta, mu, nu, params, decayed(params))
    return deltas, optax.ScaleByAdamState(state.count + 1, mu, nu)

  return optax.GradientTransformation(init, update)


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
