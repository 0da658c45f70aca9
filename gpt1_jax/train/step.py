"""TrainState, and one update as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from gpt1_jax.errors import UserError
from gpt1_jax.model import heads, models
from gpt1_jax.train import losses, malloc, sharding

# (params, batch, dropout_key, example_ids_B, mean=False) →
# (loss, weight, sums): sums over the examples of the batch. With `mean` the
# loss is divided by `weight`: by dividing the examples' weights, which takes no
# pass over the gradient.
LossFn = Callable[..., tuple[jax.Array, jax.Array, dict[str, jax.Array]]]


class TrainState(struct.PyTreeNode):
  """What training carries from update to update.

  Attributes:
    step: int32, updates applied.
    params, opt_state: trees of float32 arrays.
  """

  step: jax.Array
  params: Any
  opt_state: Any


def train_step(
  state: TrainState,
  batch: dict[str, jax.Array],
  *,
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  rate: Callable[[jax.Array], jax.Array],
  microbatches: int,
  seed: jax.Array | int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One update from one global batch.

  Args:
    state: before the update.
    batch: arrays with B rows each.
    loss_fn: see LossFn.
    optimizer, rate: from `optim.make_optimizer`.
    microbatches: parts that the batch is cut into, one after another; the
      gradient is that of the whole batch, dropout masks included.
    seed: of the dropout stream, traced or not; uint32 if traced.

  Returns:
    The new state, and scalars: loss, grad_norm, learning_rate.
  """
  dropout_key = dropout_seed(seed, state.step)
  B = next(iter(batch.values())).shape[0]
  batch = {**batch, 'example_ids': jnp.arange(B, dtype=jnp.uint32)}

  def gradient(part, mean):
    """Loss, weight and gradient, of a mean or of a sum."""
    example_ids_B = part.pop('example_ids')

    def loss_and_weight(params):
      return loss_fn(params, part, dropout_key, example_ids_B, mean)[:2]

    value = jax.value_and_grad(loss_and_weight, has_aux=True)(state.params)
    (loss, weight), grads = value
    return loss, weight, grads

  if microbatches == 1:
    loss, _, grads = gradient(batch, True)
  else:

    def accumulate(carry, part):
      return jax.tree.map(jnp.add, carry, gradient(part, False)), None

    # Strided, so that each part has rows of every device.
    parts = {
      name: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)
      for name, x in batch.items()
    }
    zero = jax.tree.map(jnp.zeros_like, state.params)
    start = (jnp.float32(0), jnp.float32(0), zero)
    (loss, weight, grads), _ = jax.lax.scan(accumulate, start, parts)
    loss, grads = jax.tree.map(lambda x: x * _inverse(weight), (loss, grads))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {
    'loss': loss,
    'grad_norm': optax.tree.norm(grads),
    'learning_rate': rate(state.step),
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def _inverse(weight: jax.Array) -> jax.Array:
  return 1.0 / jnp.maximum(weight, 1e-9)


def dropout_seed(seed: int, step: jax.Array) -> jax.Array:
  """uint32 [2]: what keys the dropout masks of the update at `step`."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.random.key_data(key)


def jit_seeded_step(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  rate: Callable[[jax.Array], jax.Array],
  state_shardings: Any,
  batch_sharding: jax.sharding.NamedSharding,
  *,
  microbatches: int,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """`train_step` of any seed: (state, batch, seed from `place_seed`).

  Runs that differ by their seed share what is compiled.
  """

  def step(state, batch, seed):
    return train_step(
      state,
      batch,
      loss_fn=loss_fn,
      optimizer=optimizer,
      rate=rate,
      microbatches=microbatches,
      seed=seed,
    )

  malloc.trim_after_compiling()
  replicated = sharding.replicated(batch_sharding.mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(state_shardings, batch_sharding, replicated),
    out_shardings=(state_shardings, None),
  )


def place_seed(seed: int, mesh: jax.sharding.Mesh) -> jax.Array:
  """uint32 scalar on every device, once, and not anew for each update.

  Raises:
    UserError: not within 0 and 2**31 - 1, where a traced seed and a constant
      one make the same stream.
  """
  if not 0 <= seed < 2**31:
    raise UserError(f'config.train.seed is {seed}: from 0 to {2**31 - 1}')
  return sharding.put(np.uint32(seed), sharding.replicated(mesh))


def pretrain_loss(model: models.Model) -> LossFn:
  """The LM objective L1 of P §3.1: sum over tokens, weight their number."""

  def loss_fn(params, batch, dropout_key, example_ids_B, mean=False):
    weights_BT = batch['lm_weights']
    weight = weights_BT[:, 1:].sum()
    if mean:
      weights_BT *= _inverse(weight)
    h_BTD, embed_VD = model.apply(
      {'params': params['gpt']},
      batch['tokens'],
      dropout_key=dropout_key,
      example_ids_B=example_ids_B,
    )
    loss = losses.lm_loss(h_BTD, embed_VD, batch['tokens'], weights_BT)
    return loss, weight, {}

  return loss_fn


def finetune_loss(
  model: models.Model,
  head: heads.Head,
  lm_coef: float,
  lm_reduction: str,
  low: float = 0.0,
) -> LossFn:
  """L3 = L2 + lm_coef * L1 of P §3.2: sums over examples.

  L1 is over all tokens, specials included, reduced as `losses.lm_weights` says.
  `sums` holds 'outputs', float32 [B, Y], and the two parts of the loss. `low`:
  see `losses.task_loss`.
  """

  def loss_fn(params, batch, dropout_key, example_ids_B, mean=False):
    weight = batch['example_weight'].sum()
    scale = _inverse(weight) if mean else 1.0
    B, C, T = batch['tokens'].shape
    tokens_BT = batch['tokens'].reshape(B * C, T)
    example_ids_BC = example_ids_B[:, None] * C + jnp.arange(
      C, dtype=jnp.uint32
    )
    h_BTD, embed_VD = model.apply(
      {'params': params['gpt']},
      tokens_BT,
      dropout_key=dropout_key,
      example_ids_B=example_ids_BC.reshape(-1),
    )
    h_BCD = heads.at_extract(h_BTD, batch['extract'].reshape(-1))
    outputs_BY = head.apply(
      {'params': params['head']},
      h_BCD.reshape(B, C, -1),
      dropout_key=dropout_key,
      example_ids_B=example_ids_B,
    )
    task_B = losses.task_loss(outputs_BY, batch['label'], low)
    task = jnp.sum(task_B * batch['example_weight'] * scale)
    sums = {'outputs': outputs_BY, 'task_loss': task, 'lm_loss': jnp.float32(0)}
    if not lm_coef:
      return task, weight, sums
    weights_BCT = losses.lm_weights(batch, lm_reduction) * (lm_coef * scale)
    weights_BT = weights_BCT.reshape(B * C, T)
    lm = losses.lm_loss(h_BTD, embed_VD, tokens_BT, weights_BT)
    return task + lm, weight, {**sums, 'lm_loss': lm / lm_coef}

  return loss_fn
