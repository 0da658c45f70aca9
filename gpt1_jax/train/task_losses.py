"""Computes task losses and the weights of the auxiliary LM loss (P §3.2).

Every loss is a sum over examples. The train step divides it by their number, so
that microbatches, padding and the number of hosts do not change it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LM_REDUCTIONS = ('tokens', 'sequences')  # see `lm_weights`


def task_loss(
  outputs_BY: jax.Array, label_B: jax.Array, low: float = 0.0
) -> jax.Array:
  """Returns float32 [B]: cross-entropy, or squared error for float labels.

  Args:
    outputs_BY: float32, one logit per class or choice. For float labels, a
      single column is the predicted value; several columns are logits of the
      integers low, low + 1, ..., scored by cross-entropy against
      `soft_classes`.
    label_B: int32 classes, or float32 values.
    low: the value of the first class.
  """
  is_value = jnp.issubdtype(label_B.dtype, jnp.floating)
  if is_value and outputs_BY.shape[1] == 1:
    return jnp.square(outputs_BY[:, 0] - label_B)
  log_probs_BY = jax.nn.log_softmax(outputs_BY)
  if is_value:
    target_BY = soft_classes(label_B - low, outputs_BY.shape[1])
    return -jnp.sum(target_BY * log_probs_BY, axis=1)
  return -jnp.take_along_axis(log_probs_BY, label_B[:, None], axis=1)[:, 0]


def lm_weights(batch: Mapping[str, jax.Array], reduction: str) -> jax.Array:
  """Returns weights with which `lm_loss` is a mean times the example count.

  Args:
    batch: fine-tuning rows: 'lm_weights' float32 [B, C, T], 1 at targets;
      'example_weight' float32 [B], 0 for padding; 'mean_targets' float32 [B],
      the mean number of targets per example in the global batch.
    reduction: 'tokens' averages over all targets in the batch, as pretraining
      does (P §3.2: L1 is the objective of §3.1); 'sequences' averages within
      each sequence, then over sequences (C: train.py).

  Returns:
    float32 [B, C, T].
  """
  weights_BCT = batch['lm_weights'].at[..., 0].set(0.0)
  weights_BCT *= batch['example_weight'][:, None, None]
  if reduction == 'tokens':
    return weights_BCT / batch['mean_targets'][:, None, None]
  count_BC1 = jnp.maximum(weights_BCT.sum(axis=2, keepdims=True), 1.0)
  return weights_BCT / count_BC1 / weights_BCT.shape[1]


def soft_classes(value_B: jax.Array, num_classes: int) -> jax.Array:
  """Splits each value between the two nearest classes, preserving the mean.

  2.3 becomes 0.7 of class 2 and 0.3 of class 3. Values are clipped to
  0 .. num_classes - 1.

  Returns:
    float32 [B, Y].
  """
  value_B1 = jnp.clip(value_B, 0.0, num_classes - 1.0)[:, None]
  return jnp.maximum(0.0, 1.0 - jnp.abs(value_B1 - jnp.arange(num_classes)))
