"""Causal multi-head self-attention (P §3.1, §4.1).

The plain path: scores of every pair of positions, masked, softmax in float32,
dropout on the probabilities, as the released code has it. Decoding takes the
same path, with keys and values kept from the tokens before.
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
  seen: jax.Array,
  rate: float,
  seed_2: jax.Array | None,
  site: jax.Array,
  rows_B: jax.Array,
) -> jax.Array:
  """Softmax(q k / sqrt(K)) v over the positions that are seen.

  Args:
    q_BTHK: queries, of any float type.
    k_BTHK, v_BTHK: keys and values, of that type; S positions of them.
    seen: bool [T, S] or [B, 1, T, S]: which keys a query sees.
    rate, seed_2, site, rows_B: of the dropout on the probabilities, see
      `dropout.dropout`.

  Returns:
    [B, T, H, K] in the type of the queries.

  """
  K = q_BTHK.shape[3]
  scores_BHTS = einsum('BTHK,BSHK->BHTS', q_BTHK, k_BTHK) * (K**-0.5)
  scores_BHTS = jnp.where(seen, scores_BHTS, MASKED)
  probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
  probs_BHTS = dropout.dropout(probs_BHTS, rate, seed_2, site, rows_B)
  out_BTHK = einsum('BHTS,BSHK->BTHK', probs_BHTS.astype(q_BTHK.dtype), v_BTHK)
  return out_BTHK.astype(q_BTHK.dtype)


class Attention(nn.Module):
  """c_attn (queries, keys, values in one product), attend, c_proj.

  Decoding, it keeps as many positions as its first call had, or as there are
  in the cache that it is given.
  """

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
    starts_B: jax.Array | None,
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
    q_BTHK, k_BTHK, v_BTHK = (qkv_BTCHK[:, :, i] for i in range(3))
    T = h_BTD.shape[1]
    if starts_B is None:
      seen = jnp.tril(jnp.ones((T, T), bool))
    else:
      k_BTHK = self._keep('k', k_BTHK, starts_B)
      v_BTHK = self._keep('v', v_BTHK, starts_B)
      places_BT = starts_B[:, None] + jnp.arange(T)
      seen = jnp.arange(k_BTHK.shape[1]) <= places_BT[:, None, :, None]
    a_BTHK = attend(
      q_BTHK,
      k_BTHK,
      v_BTHK,
      seen=seen,
      rate=self.attn_pdrop,
      seed_2=seed_2,
      site=dropout.site_id(layer, dropout.ATTENTION),
      rows_B=rows_B,
    )
    return Linear(
      'BTHK,HKD->BTD', (H, K, D), ('heads', None, 'embed'), name='c_proj'
    )(a_BTHK)

  def _keep(
    self, name: str, new_BTHK: jax.Array, starts_B: jax.Array
  ) -> jax.Array:
    """All positions [B, S, H, K], the new ones put in their places."""
    kept = self.variable('cache', name, jnp.zeros_like, new_BTHK)
    put = jax.vmap(
      lambda old_THK, new_THK, start: jax.lax.dynamic_update_slice(
        old_THK, new_THK, (start, 0, 0)
      )
    )
    kept.value = put(kept.value, new_BTHK, starts_B)
    return kept.value
