"""Causal attention with dropout inside, as one kernel of a TPU (P §3.1, §4.1).

A grid step holds a few heads of one sequence, and of a block of queries all
scores at once: nothing of size T x T is ever in HBM, and no sums run on from
block to block. The backward pass computes the scores anew. Dropout's bits are
those of `dropout.element_bits`, element by element those of the plain path.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gpt1_jax.model import dropout

QUERIES = 128  # of a block; keys after its last one are not looked at
MAX_T = 1024  # a block of queries against all keys fits VMEM
_LANES = 128  # of a TPU's registers: heads are taken by so many columns
# Operations on a score, forward and backward: softmax, mask, hash, gradients.
_FORWARD_OPS, _BACKWARD_OPS = 22, 30


def why_not(T: int, K: int) -> str | None:
  """Why the kernel does not take T positions of head width K; None: it does."""
  if T % QUERIES or T > MAX_T:
    return f'{T} positions are no multiple of {QUERIES} up to {MAX_T}'
  if K % 8 or (_LANES % K and K % _LANES):
    return f'the head width {K} does not divide {_LANES} columns'
  return None


def attend(
  qkv_CBTN: jax.Array,
  keys_B2: jax.Array,
  first_head: jax.Array,
  *,
  n_head: int,
  rate: float,
  interpret: bool,
) -> jax.Array:
  """Softmax(q k / sqrt(K)) v over earlier positions; see `attention.attend`.

  Args:
    qkv_CBTN: queries, keys, values (C = 3), their heads side by side in N
      columns; float32 or bfloat16.
    keys_B2: uint32, `dropout.row_keys` of each sequence.
    first_head: uint32 [1], the first of these heads among all of the model.
    n_head: heads in N.
    rate: of the dropout on the probabilities; 0 switches it off.
    interpret: run as plain operations, on any platform.

  Returns:
    [B, T, N] in the type of the queries.

  """
  return _attend((n_head, rate, interpret), qkv_CBTN, keys_B2, first_head)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static, qkv_CBTN, keys_B2, first_head):
  _, B, T, N = qkv_CBTN.shape
  out = jax.ShapeDtypeStruct((B, T, N), qkv_CBTN.dtype)
  return _call(_forward, static, [qkv_CBTN], keys_B2, first_head, out)


def _attend_fwd(static, qkv_CBTN, keys_B2, first_head):
  out_BTN = _attend(static, qkv_CBTN, keys_B2, first_head)
  return out_BTN, (qkv_CBTN, keys_B2, first_head)


def _attend_bwd(static, residuals, d_out_BTN):
  qkv_CBTN, keys_B2, first_head = residuals
  out = jax.ShapeDtypeStruct(qkv_CBTN.shape, qkv_CBTN.dtype)
  operands = [qkv_CBTN, d_out_BTN]
  d_qkv_CBTN = _call(_backward, static, operands, keys_B2, first_head, out)
  return d_qkv_CBTN, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


def _call(kernel, static, operands, keys_B2, first_head, out):
  """Runs a kernel over sequences and groups of heads."""
  n_head, rate, interpret = static
  _, B, T, N = operands[0].shape
  K = N // n_head
  # So many heads that they fill the lanes, or all there are.
  heads = _LANES // math.gcd(K, _LANES)
  heads = heads if n_head % heads == 0 else n_head
  wide = pl.BlockSpec((3, 1, T, heads * K), lambda b, g, *_: (0, b, 0, g))
  narrow = pl.BlockSpec((1, T, heads * K), lambda b, g, *_: (b, 0, g))
  specs = [wide if x.ndim == 4 else narrow for x in operands]
  keys_2B = keys_B2.T  # of two axes of a scalar array, the last is padded
  return pl.pallas_call(
    functools.partial(kernel, T=T, K=K, heads=heads, rate=rate),
    out_shape=out,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(B, n_head // heads),
      in_specs=specs,
      out_specs=wide if out.ndim == 4 else narrow,
    ),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel')
    ),
    cost_estimate=_cost(kernel, B * n_head, T, K, [*operands, out]),
    interpret=interpret,
    name=f'attention{kernel.__name__}',
  )(keys_2B, first_head, *operands)


def _cost(kernel, B_heads, T, K, arrays):
  """What the kernel computes and moves: the compiler cannot look inside."""
  blocks = T // QUERIES
  scores = B_heads * QUERIES**2 * blocks * (blocks + 1) // 2
  forward = kernel is _forward
  products, ops = (2, _FORWARD_OPS) if forward else (5, _BACKWARD_OPS)
  return pl.CostEstimate(
    flops=scores * (2 * K * products + ops),
    transcendentals=scores,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )


def _forward(keys_2B, first_head, qkv_CBTN, out_BTN, *, T, K, heads, rate):
  """Outputs of a group of heads, block of queries by block of queries."""
  for start in range(0, T, QUERIES):
    rows, seen = pl.ds(start, QUERIES), pl.ds(0, start + QUERIES)
    outs = []
    for head in range(heads):
      columns = slice(head * K, (head + 1) * K)
      q_QK = qkv_CBTN[0, 0, rows, columns]
      k_SK, v_SK = (qkv_CBTN[i, 0, seen, columns] for i in (1, 2))
      probs_QS = _probs(q_QK, k_SK, start)
      kept_QS = _dropped(
        probs_QS, keys_2B, first_head, head, heads, start, T, rate
      )
      outs.append(_product(kept_QS.astype(v_SK.dtype), v_SK, 1, 0))
    out_BTN[0, rows, :] = jnp.concatenate(outs, 1).astype(out_BTN.dtype)


def _backward(
  keys_2B, first_head, qkv_CBTN, d_out_BTN, d_qkv_CBTN, *, T, K, heads, rate
):
  """Gradients of a group of heads; those of keys and values add up here."""
  dtype = qkv_CBTN.dtype
  d_queries, d_keys, d_values = [], [], []
  for head in range(heads):
    columns = slice(head * K, (head + 1) * K)
    d_q, d_k_TK, d_v_TK = [], None, None
    # From the last block on: it sees all keys, and so starts their sums.
    for start in reversed(range(0, T, QUERIES)):
      end = start + QUERIES
      rows, seen = pl.ds(start, QUERIES), pl.ds(0, end)
      q_QK = qkv_CBTN[0, 0, rows, columns]
      k_SK, v_SK = (qkv_CBTN[i, 0, seen, columns] for i in (1, 2))
      d_out_QK = d_out_BTN[0, rows, columns].astype(dtype)
      probs_QS = _probs(q_QK, k_SK, start)
      drop = functools.partial(
        _dropped,
        keys_2B=keys_2B,
        first_head=first_head,
        head=head,
        heads=heads,
        start=start,
        T=T,
        rate=rate,
      )
      d_v_SK = _product(drop(probs_QS).astype(dtype), d_out_QK, 0, 0)
      d_probs_QS = drop(_product(d_out_QK, v_SK, 1, 1))
      d_scores_QS = probs_QS * (
        d_probs_QS - jnp.sum(probs_QS * d_probs_QS, axis=1, keepdims=True)
      )
      d_scores_QS = (d_scores_QS * K**-0.5).astype(dtype)
      d_q.append(_product(d_scores_QS, k_SK, 1, 0))
      d_k_SK = _product(d_scores_QS, q_QK, 0, 0)
      d_k_TK, d_v_TK = (
        new if whole is None else _add_to_first(whole, new, T)
        for whole, new in ((d_k_TK, d_k_SK), (d_v_TK, d_v_SK))
      )
    d_queries.append(jnp.concatenate(d_q[::-1], 0))
    d_keys.append(d_k_TK)
    d_values.append(d_v_TK)
  for i, parts in enumerate((d_queries, d_keys, d_values)):
    d_qkv_CBTN[i, 0] = jnp.concatenate(parts, 1).astype(dtype)


def _add_to_first(whole_TK, new_SK, T):
  S = new_SK.shape[0]
  return jnp.concatenate([whole_TK[:S] + new_SK, whole_TK[S:T]], 0)


def _product(x, y, x_axis, y_axis):
  """In float32, over an axis of each."""
  return jax.lax.dot_general(
    x,
    y,
    (((x_axis,), (y_axis,)), ((), ())),
    preferred_element_type=jnp.float32,
  )


def _probs(q_QK, k_SK, start):
  """float32 softmax of the scores of queries from `start` on."""
  scores_QS = _product(q_QK, k_SK, 1, 1) * (q_QK.shape[1] ** -0.5)
  t_QS, s_QS = _places(scores_QS.shape, start, jnp.int32)
  scores_QS = jnp.where(s_QS <= t_QS, scores_QS, -jnp.inf)
  most_Q1 = jnp.max(scores_QS, axis=1, keepdims=True)
  exp_QS = jnp.exp(scores_QS - most_Q1)
  return exp_QS / jnp.sum(exp_QS, axis=1, keepdims=True)


def _places(shape, start, dtype):
  """Position of the query and of the key of each score."""
  return (
    start + jax.lax.broadcasted_iota(dtype, shape, 0),
    jax.lax.broadcasted_iota(dtype, shape, 1),
  )


def _dropped(x_QS, keys_2B, first_head, head, heads, start, T, rate):
  """`dropout.dropout` of what stands where the probabilities of a head do."""
  if rate == 0.0:
    return x_QS
  b, group = pl.program_id(0), pl.program_id(1).astype(jnp.uint32)
  head = first_head[0] + group * jnp.uint32(heads) + jnp.uint32(head)
  t_QS, s_QS = _places(x_QS.shape, jnp.uint32(start), jnp.uint32)
  # [H, T, S] laid flat, as the plain path has them.
  element_QS = head * jnp.uint32(T * T) + t_QS * jnp.uint32(T) + s_QS
  bits_QS = dropout.element_bits(element_QS, keys_2B[0, b], keys_2B[1, b])
  threshold, scale = dropout.threshold_and_scale(rate)
  keep_QS = bits_QS >= jnp.uint32(threshold)
  return jnp.where(keep_QS, x_QS * jnp.float32(scale), 0.0)
