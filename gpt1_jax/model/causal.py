"""Computes causal attention with dropout in blocks, without kernels (P §3.1).

Computes what `attention.attend` does, but skips the blocks of 128 x 128
positions that no query sees: at 512 positions six of sixteen. The backward pass
recomputes the probabilities from the scores and the logsumexp of the softmax,
so no array of size T x T is kept, and writes the gradients of queries, keys and
values in the layout of the projection.
"""

import functools

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import einsum

# Positions per block: smaller blocks skip more, but their products are slower.
BLOCK = 128


def attend(qkv_BTCHK: jax.Array, drop: dropout.Dropout) -> jax.Array:
  """Returns softmax(q k / sqrt(K)) v over the positions up to each query's.

  The output is named 'attended' for `jax.checkpoint`, the logsumexp of the
  scores 'logsumexp'.

  Args:
    qkv_BTCHK: queries, keys and values (C = 3), float32 or bfloat16.
    drop: dropout of the probabilities, with the bits of `attention.attend`.

  Returns:
    [B, T, H, K] in the type of the queries.
  """
  rate = 0.0 if drop.key is None else drop.rate
  keys_2B = jnp.zeros((2, qkv_BTCHK.shape[0]), jnp.uint32)
  if rate:
    keys_2B = jnp.stack(dropout.row_keys(drop))
  return _attend(rate, qkv_BTCHK, keys_2B)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rate: float, qkv_BTCHK: jax.Array, keys_2B: jax.Array) -> jax.Array:
  return _attend_fwd(rate, qkv_BTCHK, keys_2B)[0]


def _attend_fwd(
  rate: float, qkv_BTCHK: jax.Array, keys_2B: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Loops over blocks of queries; each reads the keys up to its end."""
  q_BTHK, k_BTHK, v_BTHK = _split(qkv_BTCHK)
  T, dtype = q_BTHK.shape[1], q_BTHK.dtype
  outs, logsumexps = [], []
  for start, stop in _blocks(T):
    scores_BHQS = _scores(q_BTHK[:, start:stop], k_BTHK[:, :stop], start, 0)
    max_BHQ1 = jnp.max(scores_BHQS, axis=3, keepdims=True)
    exp_BHQS = jnp.exp(scores_BHQS - max_BHQ1)
    sum_BHQ1 = jnp.sum(exp_BHQS, axis=3, keepdims=True)
    kept_BHQS = _dropped(exp_BHQS, rate, keys_2B, start, 0, T).astype(dtype)
    out_BQHK = einsum('BHQS,BSHK->BQHK', kept_BHQS, v_BTHK[:, :stop])
    outs.append(out_BQHK / jnp.swapaxes(sum_BHQ1, 1, 2))
    logsumexps.append((max_BHQ1 + jnp.log(sum_BHQ1))[..., 0])
  out_BTHK = jnp.concatenate(outs, axis=1).astype(dtype)
  out_BTHK = ad_checkpoint.checkpoint_name(out_BTHK, 'attended')
  logsumexp_BHT = ad_checkpoint.checkpoint_name(
    jnp.concatenate(logsumexps, axis=2), 'logsumexp'
  )
  return out_BTHK, (qkv_BTCHK, keys_2B, out_BTHK, logsumexp_BHT)


def _attend_bwd(
  rate: float, residuals: tuple[jax.Array, ...], d_out_BTHK: jax.Array
) -> tuple[jax.Array, None]:
  """Loops over blocks of keys; each reads the queries from its start on."""
  qkv_BTCHK, keys_2B, out_BTHK, logsumexp_BHT = residuals
  q_BTHK, k_BTHK, v_BTHK = _split(qkv_BTCHK)
  T, K, dtype = q_BTHK.shape[1], q_BTHK.shape[3], q_BTHK.dtype
  product_BTHK = d_out_BTHK.astype(jnp.float32) * out_BTHK
  mean_BHT = jnp.swapaxes(jnp.sum(product_BTHK, axis=3), 1, 2)
  d_q_BTHK = jnp.zeros(q_BTHK.shape, jnp.float32)
  d_k, d_v = [], []
  for start, stop in _blocks(T):
    q_BQHK, d_out_BQHK = q_BTHK[:, start:], d_out_BTHK[:, start:]
    k_BSHK, v_BSHK = k_BTHK[:, start:stop], v_BTHK[:, start:stop]
    scores_BHQS = _scores(q_BQHK, k_BSHK, start, start)
    probs_BHQS = jnp.exp(scores_BHQS - logsumexp_BHT[:, :, start:, None])
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


def _split(qkv_BTCHK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  return qkv_BTCHK[:, :, 0], qkv_BTCHK[:, :, 1], qkv_BTCHK[:, :, 2]


def _blocks(T: int) -> list[tuple[int, int]]:
  return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]


def _scores(
  q_BQHK: jax.Array, k_BSHK: jax.Array, first_query: int, first_key: int
) -> jax.Array:
  """Returns float32 [B, H, Q, S], -inf where a key comes after its query."""
  K = q_BQHK.shape[3]
  scores_BHQS = einsum('BQHK,BSHK->BHQS', q_BQHK, k_BSHK) * (K**-0.5)
  query_Q1 = first_query + jnp.arange(q_BQHK.shape[1])[:, None]
  key_S = first_key + jnp.arange(k_BSHK.shape[1])
  return scores_BHQS + jnp.where(key_S <= query_Q1, 0.0, -jnp.inf)


def _dropped(
  x_BHQS: jax.Array,
  rate: float,
  keys_2B: jax.Array,
  first_query: int,
  first_key: int,
  T: int,
) -> jax.Array:
  """Applies dropout to a block of an array [B, H, T, T]."""
  if rate == 0.0:
    return x_BHQS
  bits_BHQS = dropout.part_bits(
    x_BHQS.shape,
    (0, first_query, first_key),
    (x_BHQS.shape[1], T, T),
    *keys_2B,
  )
  return dropout.masked(x_BHQS, bits_BHQS, rate)
