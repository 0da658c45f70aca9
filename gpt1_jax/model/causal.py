"""Causal attention with dropout as plain operations, block by block (P §3.1).

What `attention.attend` makes of all pairs of positions, without those pairs
that no query sees: of four blocks of 128 positions six of sixteen products are
left out. The backward pass makes the probabilities anew from the scores and
from what the softmax divided by, so nothing of size T x T is kept, and writes
the gradients of queries, keys and values where the projection takes them.
"""

import functools

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import einsum

BLOCK = 128  # positions; fewer leave out more, in smaller products


def attend(
  qkv_BTCHK: jax.Array,
  *,
  rate: float,
  dropout_key: jax.Array | None,
  site: jax.Array,
  example_ids_B: jax.Array,
) -> jax.Array:
  """Softmax(q k / sqrt(K)) v over the positions up to each query's own.

  For `jax.checkpoint`, what comes out is named 'attended', the logarithm of
  what the softmax divides by 'logsumexp'.

  Args:
    qkv_BTCHK: queries, keys and values (C = 3), float32 or bfloat16.
    rate, dropout_key, site, example_ids_B: dropout on the probabilities, see
      `dropout.dropout`; its bits are those that `attention.attend` draws.

  Returns:
    [B, T, H, K] in the type of the queries.

  """
  rate = 0.0 if dropout_key is None else rate
  keys_2B = jnp.zeros((2, qkv_BTCHK.shape[0]), jnp.uint32)
  if rate:
    keys_2B = jnp.stack(dropout.row_keys(dropout_key, site, example_ids_B))
  return _attend(rate, qkv_BTCHK, keys_2B)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rate, qkv_BTCHK, keys_2B):
  return _attend_fwd(rate, qkv_BTCHK, keys_2B)[0]


def _attend_fwd(rate, qkv_BTCHK, keys_2B):
  """Block of queries by block of queries, each with the keys before its end."""
  q_BTHK, k_BTHK, v_BTHK = _apart(qkv_BTCHK)
  T, dtype = q_BTHK.shape[1], q_BTHK.dtype
  outs, normalizers = [], []
  for start, stop in _blocks(T):
    scores_BHQS = _scores(q_BTHK[:, start:stop], k_BTHK[:, :stop], start, 0)
    most_BHQ1 = jnp.max(scores_BHQS, axis=3, keepdims=True)
    exp_BHQS = jnp.exp(scores_BHQS - most_BHQ1)
    sum_BHQ1 = jnp.sum(exp_BHQS, axis=3, keepdims=True)
    kept_BHQS = _dropped(exp_BHQS, rate, keys_2B, start, 0, T).astype(dtype)
    out_BQHK = einsum('BHQS,BSHK->BQHK', kept_BHQS, v_BTHK[:, :stop])
    outs.append(out_BQHK / jnp.swapaxes(sum_BHQ1, 1, 2))
    normalizers.append((most_BHQ1 + jnp.log(sum_BHQ1))[..., 0])
  out_BTHK = jnp.concatenate(outs, axis=1).astype(dtype)
  out_BTHK = ad_checkpoint.checkpoint_name(out_BTHK, 'attended')
  normalizer_BHT = ad_checkpoint.checkpoint_name(
    jnp.concatenate(normalizers, axis=2), 'logsumexp'
  )
  return out_BTHK, (qkv_BTCHK, keys_2B, out_BTHK, normalizer_BHT)


def _attend_bwd(rate, residuals, d_out_BTHK):
  """Block of keys by block of keys, each with the queries from its start on."""
  qkv_BTCHK, keys_2B, out_BTHK, normalizer_BHT = residuals
  q_BTHK, k_BTHK, v_BTHK = _apart(qkv_BTCHK)
  T, K, dtype = q_BTHK.shape[1], q_BTHK.shape[3], q_BTHK.dtype
  product_BTHK = d_out_BTHK.astype(jnp.float32) * out_BTHK
  mean_BHT = jnp.swapaxes(jnp.sum(product_BTHK, axis=3), 1, 2)
  d_q_BTHK = jnp.zeros(q_BTHK.shape, jnp.float32)
  d_k, d_v = [], []
  for start, stop in _blocks(T):
    q_BQHK, d_out_BQHK = q_BTHK[:, start:], d_out_BTHK[:, start:]
    k_BSHK, v_BSHK = k_BTHK[:, start:stop], v_BTHK[:, start:stop]
    scores_BHQS = _scores(q_BQHK, k_BSHK, start, start)
    probs_BHQS = jnp.exp(scores_BHQS - normalizer_BHT[:, :, start:, None])
    kept_BHQS = _dropped(probs_BHQS, rate, keys_2B, start, start, T)
    d_v.append(einsum('BHQS,BQHK->BSHK', kept_BHQS.astype(dtype), d_out_BQHK))
    d_kept_BHQS = einsum('BQHK,BSHK->BHQS', d_out_BQHK, v_BSHK)
    d_probs_BHQS = _dropped(d_kept_BHQS, rate, keys_2B, start, start, T)
    d_scores_BHQS = probs_BHQS * (d_probs_BHQS - mean_BHT[:, :, start:, None])
    d_scores_BHQS = (d_scores_BHQS * K**-0.5).astype(dtype)
    d_k.append(einsum('BHQS,BQHK->BSHK', d_scores_BHQS, q_BQHK))
    d_q_BQHK = einsum('BHQS,BSHK->BQHK', d_scores_BHQS, k_BSHK)
    d_q_BTHK = d_q_BTHK.at[:, start:].add(d_q_BQHK)
  d_k_BTHK, d_v_BTHK = (jnp.concatenate(x, axis=1) for x in (d_k, d_v))
  d_qkv_BTCHK = jnp.stack([d_q_BTHK, d_k_BTHK, d_v_BTHK], axis=2)
  return d_qkv_BTCHK.astype(dtype), None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _apart(qkv_BTCHK):
  return (qkv_BTCHK[:, :, i] for i in range(3))


def _blocks(T):
  return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]


def _scores(q_BQHK, k_BSHK, first_query, first_key):
  """float32 [B, H, Q, S], -inf where a key stands after its query."""
  K = q_BQHK.shape[3]
  scores_BHQS = einsum('BQHK,BSHK->BHQS', q_BQHK, k_BSHK) * (K**-0.5)
  t_Q1 = first_query + jnp.arange(q_BQHK.shape[1])[:, None]
  s_S = first_key + jnp.arange(k_BSHK.shape[1])
  return scores_BHQS + jnp.where(s_S <= t_Q1, 0.0, -jnp.inf)


def _dropped(x_BHQS, rate, keys_2B, first_query, first_key, T):
  """`dropout.dropout` of a part of what stands at all pairs of T positions."""
  if rate == 0.0:
    return x_BHQS
  bits_BHQS = dropout.part_bits(
    x_BHQS.shape,
    (0, first_query, first_key),
    (x_BHQS.shape[1], T, T),
    *keys_2B,
  )
  return dropout.masked(x_BHQS, bits_BHQS, rate)
