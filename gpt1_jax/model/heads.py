"""From the states at the extract token to a task's outputs (P §3.2, §3.3).

Classification and entailment read one state, similarity adds the states of
both orders, choice scores each answer with one logit.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import Linear


class Head(nn.Module):
  """Dropout, then one linear layer.

  Attributes:
    kind: 'classification', 'entailment', 'similarity' or 'choice'.
    num_outputs: classes Y, 1 for regression; ignored by 'choice', which has
      one output for each of the C choices.
    clf_pdrop: dropout on the states, one mask for the choices of an example
      (C: train.py, clf).

  """

  kind: str
  num_outputs: int
  clf_pdrop: float

  @nn.compact
  def __call__(
    self,
    h_BCD: jax.Array,
    *,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
  ) -> jax.Array:
    """h_BCD: states at the extract tokens → float32 outputs [B, Y or C]."""
    D = h_BCD.shape[-1]
    Y = 1 if self.kind == 'choice' else self.num_outputs
    ones_B1D = jnp.ones((h_BCD.shape[0], 1, D), jnp.float32)
    mask_B1D = dropout.dropout(
      ones_B1D,
      self.clf_pdrop,
      dropout_key,
      dropout.site_id(jnp.uint32(0), dropout.HEAD),
      example_ids_B,
    )
    h_BCD = h_BCD.astype(jnp.float32) * mask_B1D
    if self.kind != 'choice':
      h_BCD = h_BCD.sum(axis=1, keepdims=True)  # one state, or both orders
    out_BCY = Linear('BCD,DY->BCY', (D, Y), ('embed', None), name='clf')(h_BCD)
    return out_BCY[..., 0] if self.kind == 'choice' else out_BCY[:, 0]


def at_extract(h_BTD: jax.Array, extract_B: jax.Array) -> jax.Array:
  """[B, D]: the state at each sequence's extract token."""
  return jnp.take_along_axis(h_BTD, extract_B[:, None, None], axis=1)[:, 0]
