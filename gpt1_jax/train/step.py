"""Defines the training state, both objectives and the update (P §3.1, §3.2).

An update is a pure function of (state, batch, seed).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from gpt1_jax.errors import UserError
from gpt1_jax.model import heads, models
from gpt1_jax.train import (
  gradients,
  losses,
  malloc,
  norms,
  optim,
  sharding,
  task_losses,
  xla_options,
)

Params = Any  # {'gpt': ..., 'head': ...}: nested dicts of float32 arrays
Batch = Mapping[str, jax.Array]  # arrays of B rows each


class TrainState(struct.PyTreeNode):
  """The state that training carries from update to update.

  Attributes:
    step: int32, number of updates applied.
    params, opt_state: trees of float32 arrays.
  """

  step: jax.Array
  params: Params
  opt_state: Any


class StepMetrics(TypedDict):
  """Float32: loss and norms before the update, and its learning rate."""

  loss: jax.Array
  grad_norm: jax.Array
  learning_rate: jax.Array
  layer_grad_norms: norms.Norms


class LossOutput(NamedTuple):
  """The loss of a batch.

  Attributes:
    loss: float32, the sum over the batch, or the mean if `mean` was True.
    weight: float32, the divisor that turns the sum into the mean.
    sums: further outputs of the objective.
  """

  loss: jax.Array
  weight: jax.Array
  sums: dict[str, jax.Array]


class LossFn(Protocol):
  """The signature of an objective."""

  def __call__(
    self,
    params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    mean: bool = False,
  ) -> LossOutput:
    """Computes the loss.

    Args:
      params, batch: the parameters, and rows of the global batch.
      dropout_key: from `update_key`; None disables dropout.
      example_ids_B: uint32, index of each row in the global batch.
      mean: True returns the mean by scaling the rows' weights. Dividing the
        sum instead would take a pass over the gradients.
    """
    ...


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  loss_fn: LossFn,
  optimizer: optim.Optimizer,
  plan: gradients.Plan,
  seed: jax.Array | int,
) -> tuple[TrainState, StepMetrics]:
  """Computes one update from one global batch.

  Args:
    state, batch, loss_fn, optimizer: the update's inputs and rules.
    plan: how the gradient is summed. Whatever the number of microbatches, the
      gradient and the dropout masks are those of the whole batch.
    seed: seeds all dropout keys; an int, or a traced uint32.
  """
  dropout_key = update_key(seed, state.step)
  B = next(iter(batch.values())).shape[0]
  example_ids_B = jnp.arange(B, dtype=jnp.uint32)

  def part(
    params: Params, rows: tuple[Batch, jax.Array], mean: bool
  ) -> gradients.Sums:
    def loss_and_weight(params: Params) -> tuple[jax.Array, jax.Array]:
      out = loss_fn(params, rows[0], dropout_key, rows[1], mean)
      return out.loss, out.weight

    value = jax.value_and_grad(loss_and_weight, has_aux=True)(params)
    (loss, weight), grads = value
    return loss, weight, grads

  rows = (batch, example_ids_B)
  loss, grads = gradients.mean(part, state.params, rows, plan)
  updates, opt_state = optimizer.transform.update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  if plan.scattered is not None:  # keeps the updated sum sharded
    params = jax.lax.with_sharding_constraint(params, plan.scattered)
  metrics: StepMetrics = {
    'loss': loss,
    'grad_norm': optax.tree.norm(grads),
    'learning_rate': optimizer.learning_rate(state.step),
    'layer_grad_norms': norms.by_layer(grads),
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def update_key(seed: jax.Array | int, step: jax.Array) -> jax.Array:
  """Returns the dropout key of update `step` (the first is 0), uint32 [2]."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.random.key_data(key)


def jit_seeded_step(
  loss_fn: LossFn,
  optimizer: optim.Optimizer,
  state_shardings: Any,
  batch_sharding: jax.sharding.NamedSharding,
  *,
  plan: gradients.Plan,
  skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]:
  """Jits `train_step` with the arguments (state, batch, seed).

  The seed comes from `place_seed`. The state is donated. Runs that differ only
  in their seed share the compiled step. With `skip_nonfinite`, an update whose
  loss or gradient is not finite changes nothing but the counts.
  """

  def step(
    state: TrainState, batch: Batch, seed: jax.Array
  ) -> tuple[TrainState, StepMetrics]:
    new, metrics = train_step(
      state,
      batch,
      loss_fn=loss_fn,
      optimizer=optimizer,
      plan=plan,
      seed=seed,
    )
    if not skip_nonfinite:
      return new, metrics
    is_finite = jnp.isfinite(metrics['loss'] + metrics['grad_norm'])

    def keep(old: jax.Array, new: jax.Array) -> jax.Array:
      is_count = jnp.issubdtype(new.dtype, jnp.integer)
      return new if is_count else jnp.where(is_finite, new, old)

    return jax.tree.map(keep, state, new), metrics

  malloc.trim_after_compiling()
  replicated = sharding.replicated(batch_sharding.mesh)
  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(state_shardings, batch_sharding, replicated),
    out_shardings=(state_shardings, None),
    compiler_options=xla_options.compiler_options(batch_sharding.mesh),
  )


def place_seed(seed: int, mesh: jax.sharding.Mesh) -> jax.Array:
  """Places a seed on every device as uint32, once for all updates.

  Raises:
    UserError: the seed is outside [0, 2**31), where traced and constant seeds
      would give different random streams.
  """
  if not 0 <= seed < 2**31:
    raise UserError(
      f'config.train.seed is {seed}: must be from 0 to {2**31 - 1}'
    )
  return sharding.put(np.uint32(seed), sharding.replicated(mesh))


def pretrain_loss(model: models.Model) -> LossFn:
  """Returns the LM objective L1 (P §3.1); weight is the number of targets."""

  def loss_fn(
    params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    mean: bool = False,
  ) -> LossOutput:
    weights_BT = batch['lm_weights']
    weight = weights_BT[:, 1:].sum()
    if mean:
      weights_BT *= gradients.inverse(weight)
    out: Any = model.apply(
      {'params': params['gpt']},
      batch['tokens'],
      dropout_key=dropout_key,
      example_ids_B=example_ids_B,
    )
    h_BTD, embed_VD = out
    loss = losses.lm_loss(h_BTD, embed_VD, batch['tokens'], weights_BT)
    return LossOutput(loss, weight, {})

  return loss_fn


def finetune_loss(
  model: models.Model,
  head: heads.Head,
  lm_coef: float,
  lm_reduction: str,
  low: float = 0.0,
) -> LossFn:
  """Returns the objective L3 = L2 + lm_coef * L1 (P §3.2).

  L1 covers all tokens, specials included. The weight is the number of examples;
  `sums` holds 'outputs' [B, Y], 'task_loss' (L2) and 'lm_loss' (L1).

  Args:
    model, head: the network.
    lm_coef: lambda of P §3.2; 0 leaves L1 out.
    lm_reduction: see `task_losses.lm_weights`.
    low: see `task_losses.task_loss`.
  """

  def loss_fn(
    params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    mean: bool = False,
  ) -> LossOutput:
    weight = batch['example_weight'].sum()
    scale = gradients.inverse(weight) if mean else 1.0
    B, C, T = batch['tokens'].shape
    tokens_BT = batch['tokens'].reshape(B * C, T)
    choice_C = jnp.arange(C, dtype=jnp.uint32)
    out: Any = model.apply(
      {'params': params['gpt']},
      tokens_BT,
      dropout_key=dropout_key,
      example_ids_B=(example_ids_B[:, None] * C + choice_C).reshape(-1),
    )
    h_BTD, embed_VD = out
    h_BCD = heads.at_extract(h_BTD, batch['extract'].reshape(-1))
    outputs_BY: Any = head.apply(
      {'params': params['head']},
      h_BCD.reshape(B, C, -1),
      dropout_key=dropout_key,
      example_ids_B=example_ids_B,
    )
    task_B = task_losses.task_loss(outputs_BY, batch['label'], low)
    task = jnp.sum(task_B * batch['example_weight'] * scale)
    sums = {'outputs': outputs_BY, 'task_loss': task, 'lm_loss': jnp.float32(0)}
    if not lm_coef:
      return LossOutput(task, weight, sums)
    weights_BCT = task_losses.lm_weights(batch, lm_reduction) * (
      lm_coef * scale
    )
    weights_BT = weights_BCT.reshape(B * C, T)
    lm = losses.lm_loss(h_BTD, embed_VD, tokens_BT, weights_BT)
    sums['lm_loss'] = lm / lm_coef
    return LossOutput(task + lm, weight, sums)

  return loss_fn
