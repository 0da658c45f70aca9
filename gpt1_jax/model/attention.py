"""Causal multi-head self-attention (P §3.1, §4.1).

The plain path: scores of every pair of positions, masked, softmax in float32,
dropout on the probabilities, as the released code has it.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import Linear, einsum

MASKED = -1e9  # C: train.py, mask_attn_weights


def attend(
  q_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHK: jax.Array,
  *,
  rate: float,
  seed_2: jax.Array | None,
  site: jax.Array,
  rows_B: jax.Array,
) -> jax.Array:
  """Softmax(q k / sqrt(K)) v with a causal mask.

  Args:
    q_BTHK, k_BTHK, v_BTHK: queries, keys, values, of one float type.
    rate, seed_2, site, rows_B: of the dropout on the probabilities, see
      `dropout.dropout`.

  Returns:
    [B, T, H, K] in the type of the queries.

  """
  T, K = q_BTHK.shape[1], q_BTHK.shape[3]
  scores_BHTS = einsum('BTHK,BSHK->BHTS', q_BTHK, k_BTHK) * (K**-0.5)
  causal_TS = jnp.tril(jnp.ones((T, T), bool))
  scores_BHTS = jnp.where(causal_TS, scores_BHTS, MASKED)
  probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
  probs_BHTS = dropout.dropout(probs_BHTS, rate, seed_2, site, rows_B)
  out_BTHK = einsum('BHTS,BSHK->BTHK', probs_BHTS.astype(q_BTHK.dtype), v_BTHK)
  return out_BTHK.astype(q_BTHK.dtype)


class Attention(nn.Module):
  """c_attn (queries, keys, values in one product), attend, c_proj."""

  n_embd: int
  n_head: int
  attn_pdrop: float

  @nn.compact
  def __call__(
    self,
    h_BTD: jax.Array,
    layer: jax.Array,
    seed_2: jax.Array | None,
    rows_B: jax.Array,
  ) -> jax.Array:
    D, H, K = self.n_embd, self.n_head, self.n_embd // self.n_head
    qkv_BTCHK = Linear(
      'BTD,DCHK->BTCHK',
      (D, 3, H, K),
      ('embed', None, 'heads', None),
      bias_ndim=3,
      name='c_attn',
    )(h_BTD)
    qkv_BTCHK = nn.with_logical_constraint(
      qkv_BTCHK, ('batch', None, None, 'heads', None)
    )
    a_BTHK = attend(
      qkv_BTCHK[:, :, 0],
      qkv_BTCHK[:, :, 1],
      qkv_BTCHK[:, :, 2],
      rate=self.attn_pdrop,
      seed_2=seed_2,
      site=dropout.site_id(layer, dropout.ATTENTION),
      rows_B=rows_B,
    )
    return Linear(
      'BTHK,HKD->BTD', (H, K, D), ('heads', None, 'embed'), name='c_proj'
    )(a_BTHK)
