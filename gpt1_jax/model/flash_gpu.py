"""Computes causal attention with dropout in Pallas kernels for GPUs (Triton).

The forward pass follows FlashAttention-2 (Dao, 2023): each program computes one
block of queries of one head, with running maxima and sums, and keeps the
logsumexp of the scores. A program of the backward pass computes the gradients
of the queries, the keys and the values of one block. Nothing of size T x T
reaches memory. Dropout bits come from `dropout.element_bits` and equal those of
the plain path, so a run can resume on any platform and mesh.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from gpt1_jax.model import tiles
from gpt1_jax.model.tiles import Ref, Static

BLOCK = 64  # queries and keys of a tile
WIDTHS = (16, 32, 64, 128)  # of a head: Triton's tiles are powers of two


def unsupported_reason(T: int, K: int) -> str | None:
  """Returns why the kernels cannot run T positions of head width K, or None."""
  if T % BLOCK:
    return f'{T} positions are not a multiple of {BLOCK}'
  if K not in WIDTHS:
    return f'the head width {K} is not one of {", ".join(map(str, WIDTHS))}'
  return None


def attend(
  static: Static, qkv_CBTN: jax.Array, keys_B2: jax.Array, first_head: jax.Array
) -> jax.Array:
  """Computes what `flash.attend` does, from the same arguments.

  The output is named 'attended' for `jax.checkpoint`, the logsumexp of the
  scores 'logsumexp'.
  """
  head_B1 = jnp.broadcast_to(first_head, (keys_B2.shape[0], 1))
  scalars_B3 = jnp.concatenate([keys_B2, head_B1], axis=1)
  return _attend(static, qkv_CBTN, scalars_B3)


class _Head(NamedTuple):
  """The head that a program works on.

  Attributes:
    low, high: uint32, the dropout keys of the sequence.
    number: uint32, the number of the head in the model.
    T: positions of the sequence.
    rate: dropout rate.
  """

  low: jax.Array
  high: jax.Array
  number: jax.Array
  T: int
  rate: float

  @classmethod
  def of_program(cls, scalars_3: Ref, T: int, rate: float) -> '_Head':
    number = scalars_3[2] + pl.program_id(2).astype(jnp.uint32)
    return cls(scalars_3[0], scalars_3[1], number, T, rate)

  def factors(self, query: Any, key: Any) -> jax.Array:
    """Returns the dropout factors of a tile, float32 [Q, S].

    Args:
      query, key: the numbers of the blocks of queries and of keys.
    """
    at_QS = tiles.positions((BLOCK, BLOCK), (query * BLOCK, key * BLOCK))
    element_QS = tiles.element(self.number, self.T, *at_QS)
    return tiles.dropout_factors(element_QS, self.low, self.high, self.rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
  static: Static, qkv_CBTN: jax.Array, scalars_B3: jax.Array
) -> jax.Array:
  return _attend_fwd(static, qkv_CBTN, scalars_B3)[0]


def _attend_fwd(
  static: Static, qkv_CBTN: jax.Array, scalars_B3: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  _, B, T, N = qkv_CBTN.shape
  K = N // static.n_head
  out_BTN, logsumexp_BHT = pl.pallas_call(
    functools.partial(_forward, rate=static.rate),
    out_shape=(
      jax.ShapeDtypeStruct((B, T, N), qkv_CBTN.dtype),
      jax.ShapeDtypeStruct((B, static.n_head, T), jnp.float32),
    ),
    grid=(T // BLOCK, B, static.n_head),
    in_specs=_qkv_and_scalars(T, K),
    out_specs=(
      pl.BlockSpec((None, BLOCK, K), lambda i, b, h: (b, i, h)),
      pl.BlockSpec((None, None, BLOCK), lambda i, b, h: (b, h, i)),
    ),
    compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
    interpret=static.interpret,
    name='attention_forward',
  )(qkv_CBTN, scalars_B3)
  out_BTN = ad_checkpoint.checkpoint_name(out_BTN, 'attended')
  logsumexp_BHT = ad_checkpoint.checkpoint_name(logsumexp_BHT, 'logsumexp')
  return out_BTN, (qkv_CBTN, scalars_B3, out_BTN, logsumexp_BHT)


def _attend_bwd(
  static: Static, residuals: tuple[jax.Array, ...], d_out_BTN: jax.Array
) -> tuple[jax.Array, None]:
  qkv_CBTN, scalars_B3, out_BTN, logsumexp_BHT = residuals
  _, B, T, N = qkv_CBTN.shape
  H, K = static.n_head, N // static.n_head
  # The sum over the keys of each query's probabilities times their gradients.
  products_BTN = d_out_BTN.astype(jnp.float32) * out_BTN
  mean_BHT = products_BTN.reshape(B, T, H, K).sum(3).swapaxes(1, 2)
  d_qkv_CBTN = pl.pallas_call(
    functools.partial(_backward, rate=static.rate),
    out_shape=jax.ShapeDtypeStruct(qkv_CBTN.shape, qkv_CBTN.dtype),
    grid=(T // BLOCK, B, H),
    in_specs=[
      *_qkv_and_scalars(T, K),
      pl.BlockSpec((None, T, K), lambda i, b, h: (b, 0, h)),
      pl.BlockSpec((2, None, None, T), lambda i, b, h: (0, b, h, 0)),
    ],
    out_specs=pl.BlockSpec((3, None, BLOCK, K), lambda i, b, h: (0, b, i, h)),
    compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
    interpret=static.interpret,
    name='attention_backward',
  )(
    qkv_CBTN,
    scalars_B3,
    d_out_BTN.astype(qkv_CBTN.dtype),
    jnp.stack([logsumexp_BHT, mean_BHT]),
  )
  return d_qkv_CBTN, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _qkv_and_scalars(T: int, K: int) -> list[pl.BlockSpec]:
  """Returns block specs: program (i, b, h) sees all of head h of sequence b."""
  return [
    pl.BlockSpec((3, None, T, K), lambda i, b, h: (0, b, 0, h)),
    pl.BlockSpec((None, 3), lambda i, b, h: (b, 0)),
  ]


class _Sums(NamedTuple):
  """Running softmax of a block of queries, over the keys read so far."""

  values_QK: jax.Array  # exp(score - max) times the values, after dropout
  exp_Q: jax.Array  # exp(score - max)
  max_Q: jax.Array  # of the scores


def _forward(
  qkv_CTK: Ref, scalars_3: Ref, out_QK: Ref, logsumexp_Q: Ref, *, rate: float
) -> None:
  """Computes the outputs of a block of queries."""
  _, T, K = qkv_CTK.shape
  head = _Head.of_program(scalars_3, T, rate)
  query = pl.program_id(0)
  q_QK = qkv_CTK[0, _rows(query), :]

  def add(key: Any, state: _Sums, diagonal: bool = False) -> _Sums:
    """Adds a block of keys to the outputs, sums and maxima so far."""
    sum_QK, sum_Q, max_Q = state
    k_SK, v_SK = (qkv_CTK[i, _rows(key), :] for i in (1, 2))
    scores_QS = _scores(q_QK, k_SK, diagonal)
    new_max_Q = jnp.maximum(max_Q, jnp.max(scores_QS, axis=1))
    shrink_Q = jnp.exp(max_Q - new_max_Q)
    exp_QS = jnp.exp(scores_QS - new_max_Q[:, None])
    sum_Q = sum_Q * shrink_Q + jnp.sum(exp_QS, axis=1)
    if rate:
      exp_QS = exp_QS * head.factors(query, key)
    new_QK = tiles.product(exp_QS.astype(v_SK.dtype), v_SK, 1, 0)
    return _Sums(sum_QK * shrink_Q[:, None] + new_QK, sum_Q, new_max_Q)

  # The diagonal block first: afterwards no maximum is -inf.
  state = _Sums(
    jnp.zeros((BLOCK, K), jnp.float32),
    jnp.zeros((BLOCK,), jnp.float32),
    jnp.full((BLOCK,), -jnp.inf, jnp.float32),
  )
  state = add(query, state, diagonal=True)
  sum_QK, sum_Q, max_Q = jax.lax.fori_loop(0, query, add, state)
  out_QK[...] = (sum_QK / sum_Q[:, None]).astype(out_QK.dtype)
  logsumexp_Q[...] = max_Q + jnp.log(sum_Q)


def _backward(
  qkv_CTK: Ref,
  scalars_3: Ref,
  d_out_TK: Ref,
  sums_2T: Ref,
  d_qkv_CBK: Ref,
  *,
  rate: float,
) -> None:
  """Computes the gradients of a block of queries, keys and values.

  `sums_2T` holds the logsumexp of each query's scores, and the sum over its
  keys of the probabilities times their gradients.
  """
  _, T, K = qkv_CTK.shape
  dtype = qkv_CTK.dtype
  head = _Head.of_program(scalars_3, T, rate)
  block = pl.program_id(0)

  def gradients(
    query: Any, key: Any, diagonal: bool = False
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of a tile: of its scores, keys and values."""
    q_QK = qkv_CTK[0, _rows(query), :]
    k_SK, v_SK = (qkv_CTK[i, _rows(key), :] for i in (1, 2))
    d_out_QK = d_out_TK[_rows(query), :]
    scores_QS = _scores(q_QK, k_SK, diagonal)
    logsumexp_Q, mean_Q = (sums_2T[i, _rows(query)] for i in (0, 1))
    probs_QS = jnp.exp(scores_QS - logsumexp_Q[:, None])
    d_probs_QS = tiles.product(d_out_QK, v_SK, 1, 1)
    kept_QS = probs_QS
    if rate:
      factors_QS = head.factors(query, key)
      kept_QS, d_probs_QS = probs_QS * factors_QS, d_probs_QS * factors_QS
    d_scores_QS = probs_QS * (d_probs_QS - mean_Q[:, None])
    d_scores_QS = (d_scores_QS * K**-0.5).astype(dtype)
    d_v_SK = tiles.product(kept_QS.astype(dtype), d_out_QK, 0, 0)
    return d_scores_QS, tiles.product(d_scores_QS, q_QK, 0, 0), d_v_SK

  def d_query(key: Any, d_scores_QS: jax.Array) -> jax.Array:
    return tiles.product(d_scores_QS, qkv_CTK[1, _rows(key), :], 1, 0)

  def add_keys(key: Any, d_q_QK: jax.Array) -> jax.Array:
    """Adds a block of keys to the gradient of the queries."""
    return d_q_QK + d_query(key, gradients(block, key)[0])

  def add_queries(
    query: Any, d_kv: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """Adds a block of queries to the gradients of the keys and values."""
    _, d_k_SK, d_v_SK = gradients(query, block)
    return d_kv[0] + d_k_SK, d_kv[1] + d_v_SK

  d_scores_QS, *d_kv = gradients(block, block, diagonal=True)
  d_q_QK = jax.lax.fori_loop(0, block, add_keys, d_query(block, d_scores_QS))
  d_k_SK, d_v_SK = jax.lax.fori_loop(
    block + 1, T // BLOCK, add_queries, tuple(d_kv)
  )
  for i, x_BK in enumerate((d_q_QK, d_k_SK, d_v_SK)):
    d_qkv_CBK[i] = x_BK.astype(dtype)


def _rows(block: Any) -> Any:
  """Returns the slice of the positions that block number `block` covers."""
  return pl.ds(block * BLOCK, BLOCK)


def _scores(q_QK: jax.Array, k_SK: jax.Array, diagonal: bool) -> jax.Array:
  """Returns the float32 scores, -inf after the query in the diagonal tile."""
  scores_QS = tiles.product(q_QK, k_SK, 1, 1) * (q_QK.shape[1] ** -0.5)
  if not diagonal:
    return scores_QS
  query_QS, key_QS = tiles.positions((BLOCK, BLOCK), (0, 0))
  return jnp.where(key_QS <= query_QS, scores_QS, -jnp.inf)
