"""Maps hidden states at the extract tokens to task outputs (P §3.2, §3.3).

Classification and entailment read one state, similarity adds the states of
both orders, choice scores each answer with one logit.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import Linear


class Head(nn.Module):
  """Applies dropout, then one linear layer.

  Attributes:
    kind: 'classification', 'entailment', 'similarity' or 'choice'.
    num_outputs: classes Y, or 1 for regression; 'choice' ignores it, as it has
      one output for each of the C choices.
    clf_pdrop: dropout rate of the states; the choices of an example share one
      mask (C: train.py, clf).
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
    """Maps states at the extract tokens to float32 outputs [B, Y or C]."""
    B, _, D = h_BCD.shape
    choice = self.kind == 'choice'
    site = dropout.site_id(0, dropout.HEAD)
    drop = dropout.Dropout(self.clf_pdrop, dropout_key, site, example_ids_B)
    mask_B1D = dropout.apply(jnp.ones((B, 1, D), jnp.float32), drop)
    h_BCD = h_BCD.astype(jnp.float32) * mask_B1D
    if not choice:
      h_BCD = h_BCD.sum(axis=1, keepdims=True)  # one state, or both orders
    Y = 1 if choice else self.num_outputs
    out_BCY = Linear('BCD,DY->BCY', (D, Y), ('embed', None), name='clf')(h_BCD)
    return out_BCY[..., 0] if choice else out_BCY[:, 0]


def at_extract(h_BTD: jax.Array, extract_B: jax.Array) -> jax.Array:
  """Returns the state [B, D] at each sequence's extract token."""
  return jnp.take_along_axis(h_BTD, extract_B[:, None, None], axis=1)[:, 0]
