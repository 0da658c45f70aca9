"""Computes causal attention with dropout in a Pallas kernel (P §3.1, §4.1).

For TPUs. A grid step computes a few heads of one sequence, and all scores of a
block of queries at once: nothing of size T x T reaches HBM, and the softmax
needs no running sums. The backward pass recomputes the probabilities. Dropout
bits come from `dropout.element_bits` and equal those of the plain path.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt1_jax.model import tiles
from gpt1_jax.model.tiles import Ref, Static

QUERIES = 128  # per block; it reads no key after its last query
MAX_T = 1024  # so that the scores of a block against all keys fit VMEM
_LANES = 128  # columns of a TPU register; at most as many per grid step
# Operations for each score: softmax, mask, hash, gradients.
_FORWARD_OPS, _BACKWARD_OPS = 20, 27


def unsupported_reason(T: int, K: int) -> str | None:
  """Returns why the kernel cannot run T positions of head width K, or None."""
  if T % QUERIES or T > MAX_T:
    return f'{T} positions are not a multiple of {QUERIES} up to {MAX_T}'
  if K % 8 or (_LANES % K and K % _LANES):
    return f'the head width {K} does not divide {_LANES} columns'
  return None


class _Tile(NamedTuple):
  """The shape of a grid step: T positions, `heads` heads of width K."""

  T: int
  K: int
  heads: int
  rate: float

  def columns(self, head: int) -> slice:
    return slice(head * self.K, (head + 1) * self.K)

  def factors(
    self, scalars: tuple[Any, Any], head: int, start: int
  ) -> jax.Array:
    """Returns the dropout factors [Q, S] of the queries from `start` on."""
    keys_2B, first_head = scalars
    b, group = pl.program_id(0), pl.program_id(1).astype(jnp.uint32)
    number = first_head[0] + group * jnp.uint32(self.heads) + jnp.uint32(head)
    at_QS = tiles.positions((QUERIES, start + QUERIES), (start, 0))
    element_QS = tiles.element(number, self.T, *at_QS)
    return tiles.dropout_factors(
      element_QS, keys_2B[0, b], keys_2B[1, b], self.rate
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  static: Static, qkv_CBTN: jax.Array, keys_B2: jax.Array, first_head: jax.Array
) -> jax.Array:
  """Returns softmax(q k / sqrt(K)) v over the positions up to each query's.

  The output is named 'attended' for `jax.checkpoint`.

  Args:
    static: constants of the kernel.
    qkv_CBTN: queries, keys and values (C = 3), the heads side by side in N
      columns; float32 or bfloat16.
    keys_B2: uint32, `dropout.row_keys` of each sequence.
    first_head: uint32 [1], the model's number of the first of these heads.

  Returns:
    [B, T, N] in the type of the queries.
  """
  return _attend_fwd(static, qkv_CBTN, keys_B2, first_head)[0]


def _attend_fwd(
  static: Static, qkv_CBTN: jax.Array, keys_B2: jax.Array, head: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  _, B, T, N = qkv_CBTN.shape
  out = jax.ShapeDtypeStruct((B, T, N), qkv_CBTN.dtype)
  out_BTN = _call(_forward, static, [qkv_CBTN], (keys_B2, head), out)
  out_BTN = ad_checkpoint.checkpoint_name(out_BTN, 'attended')
  return out_BTN, (qkv_CBTN, keys_B2, head)


def _attend_bwd(
  static: Static, residuals: tuple[jax.Array, ...], d_out_BTN: jax.Array
) -> tuple[jax.Array, None, None]:
  qkv_CBTN, keys_B2, head = residuals
  out = jax.ShapeDtypeStruct(qkv_CBTN.shape, qkv_CBTN.dtype)
  operands = [qkv_CBTN, d_out_BTN]
  return _call(_backward, static, operands, (keys_B2, head), out), None, None


attend.defvjp(_attend_fwd, _attend_bwd)


def _call(
  kernel: Callable[..., None],
  static: Static,
  operands: list[jax.Array],
  scalars: tuple[jax.Array, jax.Array],
  out: jax.ShapeDtypeStruct,
) -> jax.Array:
  """Runs a kernel over a grid of sequences and groups of heads."""
  _, B, T, N = operands[0].shape
  K = N // static.n_head
  # As many heads as fill the lanes, or all there are.
  heads = _LANES // math.gcd(K, _LANES)
  heads = heads if static.n_head % heads == 0 else static.n_head
  wide = pl.BlockSpec((3, 1, T, heads * K), lambda b, g, *_: (0, b, 0, g))
  narrow = pl.BlockSpec((1, T, heads * K), lambda b, g, *_: (b, 0, g))
  keys_B2, first_head = scalars
  keys_2B = keys_B2.T  # the last of two axes is padded in scalar memory
  return pl.pallas_call(
    functools.partial(kernel, tile=_Tile(T, K, heads, static.rate)),
    out_shape=out,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(B, static.n_head // heads),
      in_specs=[wide if x.ndim == 4 else narrow for x in operands],
      out_specs=wide if out.ndim == 4 else narrow,
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel')
    ),
    cost_estimate=_cost(
      kernel is _forward, B * static.n_head, T, K, [*operands, out]
    ),
    interpret=static.interpret,
    name=f'attention{kernel.__name__}',
  )(keys_2B, first_head, *operands)


def _cost(
  forward: bool, B_heads: int, T: int, K: int, arrays: list[Any]
) -> pl.CostEstimate:
  """Returns the kernel's FLOPs and bytes, for the compiler's scheduler."""
  blocks = T // QUERIES
  scores = B_heads * QUERIES**2 * blocks * (blocks + 1) // 2
  products, ops = (2, _FORWARD_OPS) if forward else (5, _BACKWARD_OPS)
  return pl.CostEstimate(
    flops=scores * (2 * K * products + ops),
    transcendentals=scores,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )


def _forward(
  keys_2B: Ref, first_head: Ref, qkv_CBTN: Ref, out_BTN: Ref, *, tile: _Tile
) -> None:
  """Computes the outputs of a group of heads, block by block of queries."""
  for start in range(0, tile.T, QUERIES):
    queries, keys = pl.ds(start, QUERIES), pl.ds(0, start + QUERIES)
    outs = []
    for head in range(tile.heads):
      columns = tile.columns(head)
      q_QK = qkv_CBTN[0, 0, queries, columns]
      k_SK, v_SK = (qkv_CBTN[i, 0, keys, columns] for i in (1, 2))
      exp_QS, sum_Q1 = _exp_and_sum(q_QK, k_SK)
      if tile.rate:
        exp_QS *= tile.factors((keys_2B, first_head), head, start)
      out_QK = tiles.product(exp_QS.astype(v_SK.dtype), v_SK, 1, 0)
      outs.append(out_QK / sum_Q1)
    out_BTN[0, queries, :] = jnp.concatenate(outs, 1).astype(out_BTN.dtype)


def _backward(
  keys_2B: Ref,
  first_head: Ref,
  qkv_CBTN: Ref,
  d_out_BTN: Ref,
  d_qkv_CBTN: Ref,
  *,
  tile: _Tile,
) -> None:
  """Computes the gradients of a group of heads."""
  dtype = qkv_CBTN.dtype
  d_qkv: tuple[list[Any], ...] = ([], [], [])
  for head in range(tile.heads):
    columns = tile.columns(head)
    d_q: list[jax.Array] = []
    d_k_TK, d_v_TK = None, None
    # The last block first: it reads all keys, so it starts their sums.
    for start in reversed(range(0, tile.T, QUERIES)):
      queries, keys = pl.ds(start, QUERIES), pl.ds(0, start + QUERIES)
      q_QK = qkv_CBTN[0, 0, queries, columns]
      k_SK, v_SK = (qkv_CBTN[i, 0, keys, columns] for i in (1, 2))
      d_out_QK = d_out_BTN[0, queries, columns].astype(dtype)
      exp_QS, sum_Q1 = _exp_and_sum(q_QK, k_SK)
      probs_QS = kept_QS = exp_QS / sum_Q1
      d_probs_QS = tiles.product(d_out_QK, v_SK, 1, 1)
      if tile.rate:
        factors_QS = tile.factors((keys_2B, first_head), head, start)
        kept_QS, d_probs_QS = probs_QS * factors_QS, d_probs_QS * factors_QS
      d_v_SK = tiles.product(kept_QS.astype(dtype), d_out_QK, 0, 0)
      # The outputs times their gradients have the same sums, but reading them
      # costs more than these operations (1.9 GB of 39 in the paper's step).
      mean_Q1 = jnp.sum(probs_QS * d_probs_QS, axis=1, keepdims=True)
      d_scores_QS = probs_QS * (d_probs_QS - mean_Q1)
      d_scores_QS = (d_scores_QS * tile.K**-0.5).astype(dtype)
      d_q.append(tiles.product(d_scores_QS, k_SK, 1, 0))
      d_k_SK = tiles.product(d_scores_QS, q_QK, 0, 0)
      d_k_TK, d_v_TK = _add_rows(d_k_TK, d_k_SK), _add_rows(d_v_TK, d_v_SK)
    of_head = (jnp.concatenate(d_q[::-1], 0), d_k_TK, d_v_TK)
    for parts, x in zip(d_qkv, of_head, strict=True):
      parts.append(x)
  for i, parts in enumerate(d_qkv):
    d_qkv_CBTN[i, 0] = jnp.concatenate(parts, 1).astype(dtype)


def _add_rows(total_TK: jax.Array | None, new_SK: jax.Array) -> jax.Array:
  """Adds `new_SK` to the first rows of the total; None starts it."""
  if total_TK is None:
    return new_SK
  S = new_SK.shape[0]
  return jnp.concatenate([total_TK[:S] + new_SK, total_TK[S:]], 0)


def _exp_and_sum(
  q_QK: jax.Array, k_SK: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns exp(scores - their maximum) [Q, S] and its sums [Q, 1], float32.

  The last keys are at the positions of the queries: only there can a key come
  after its query.
  """
  scores_QS = tiles.product(q_QK, k_SK, 1, 1) * (q_QK.shape[1] ** -0.5)
  query_QQ, key_QQ = tiles.positions((QUERIES, QUERIES), (0, 0))
  before = k_SK.shape[0] - QUERIES
  diagonal_QQ = jnp.where(key_QQ <= query_QQ, scores_QS[:, before:], -jnp.inf)
  if before:
    scores_QS = jnp.concatenate([scores_QS[:, :before], diagonal_QQ], axis=1)
  else:
    scores_QS = diagonal_QQ
  exp_QS = jnp.exp(scores_QS - jnp.max(scores_QS, axis=1, keepdims=True))
  return exp_QS, jnp.sum(exp_QS, axis=1, keepdims=True)
