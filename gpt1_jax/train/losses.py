"""Computes the LM loss (P §3.1) in chunks of tokens.

The loss is a sum over tokens. The train step divides it by their number, so
that microbatches, padding and the number of hosts do not change it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.model import placement
from gpt1_jax.model.linear import einsum
from gpt1_jax.model.placement import platform
from gpt1_jax.train.sharding import BATCH_AXES, EMBED_AXIS, VOCAB_AXIS

# A CPU computes the logits of a quarter of its tokens at a time, within these
# bounds. Those of a whole batch would be the program's largest array. Smaller
# chunks add to the output matrix's gradient more often, which costs time.
CHUNK_TOKENS = 2048
MIN_CHUNK_TOKENS = 256
# An accelerator's chunks, by `placement.reduce_dtype` (see docs/tpu_step.md).
ACCELERATOR_CHUNK_TOKENS = {'float32': 4096, 'bfloat16': 2048}

# Off the CPU, a logit counts as at most this far above the target's, so that
# the sum of exp() over any vocabulary V is finite. No loss exceeds 70 + ln(V).
MAX_EXCESS = 70.0


class _Shard(NamedTuple):
  """Describes how the vocabulary and the batch are sharded.

  Attributes:
    axis: mesh axis that shards the rows of the output matrix, or None.
    num_rows: vocabulary rows without padding; unused without `axis`.
    batch_axes: mesh axes that shard the batch.
    columns: mesh axis that shards the columns of the output matrix, or None.
  """

  axis: str | None = None
  num_rows: int = 0
  batch_axes: tuple[str, ...] = ()
  columns: str | None = None


_SINGLE = _Shard()


def lm_loss(
  h_BTD: jax.Array,
  embed_VD: jax.Array,
  tokens_BT: jax.Array,
  weights_BT: jax.Array,
) -> jax.Array:
  """Returns the weighted sum of -log p(token t | tokens before t), in nats.

  The shift happens here: the hidden state at t - 1 predicts the token at t.

  Args:
    h_BTD: hidden states of the last block.
    embed_VD: float32, the output matrix.
    tokens_BT: int32.
    weights_BT: float32, weight of each token as a target; the first column is
      never a target and is ignored.
  """
  targets_BT = jnp.roll(tokens_BT, -1, axis=1)
  weights_BT = jnp.roll(weights_BT.at[:, 0].set(0.0), -1, axis=1)
  if not placement.is_partitioned():
    return _nll_sum(_SINGLE, h_BTD, embed_VD, targets_BT, weights_BT)
  # A device takes its rows of the batch and, on a tensor axis, of the matrix,
  # padded to a multiple. The matrix gradient is summed once, after all chunks.
  mesh, axes = jax.sharding.get_abstract_mesh(), placement.automatic_axes()
  batch_axes = tuple(name for name in BATCH_AXES if name in axes)
  axis, columns = (
    name if name in axes and mesh.shape[name] > 1 else None
    for name in (VOCAB_AXIS, EMBED_AXIS)
  )
  shard = _Shard(axis, embed_VD.shape[0], batch_axes, columns)
  if shard.axis:
    padding = -embed_VD.shape[0] % mesh.shape[shard.axis]
    embed_VD = jnp.pad(embed_VD, ((0, padding), (0, 0)))
    # Sharded like the parameter, so that the gradient is gathered only once.
    embed_VD = nn.with_logical_constraint(embed_VD, ('vocab', 'embed'))

  def local(
    h_BTD: jax.Array, embed_VD: jax.Array, *targets_and_weights: jax.Array
  ) -> jax.Array:
    copied = tuple(name for name in batch_axes if name != columns)
    embed_VD = jax.lax.pcast(embed_VD, copied, to='varying')
    total = _nll_sum(shard, h_BTD, embed_VD, *targets_and_weights)
    return jax.lax.psum(total, batch_axes)

  rows = PartitionSpec(batch_axes)
  return jax.shard_map(
    local,
    in_specs=(rows, PartitionSpec(axis, columns), rows, rows),
    out_specs=PartitionSpec(),
    axis_names=set(axes),
  )(h_BTD, embed_VD, targets_BT, weights_BT)


def token_log_probs(
  h_BTD: jax.Array, embed_VD: jax.Array, tokens_BT: jax.Array
) -> jax.Array:
  """Returns float32 [B, T]: log p(token t | tokens before t); 0 at t = 0.

  In nats; computes the logits one chunk at a time. Arguments as in `lm_loss`.
  """
  B, T, _ = h_BTD.shape
  targets_BT = jnp.roll(tokens_BT, -1, axis=1)

  def one(chunk: tuple[jax.Array, jax.Array]) -> jax.Array:
    h_BCD, targets_BC = chunk
    return _chunk_nll(_SINGLE, h_BCD, embed_VD, targets_BC)[0]

  nll_NBC = jax.lax.map(one, (_chunks(h_BTD), _chunks(targets_BT)))
  nll_BT = jnp.moveaxis(nll_NBC, 0, 1).reshape(B, -1)[:, :T]
  return jnp.roll(-nll_BT, 1, axis=1).at[:, 0].set(0.0)


def _chunks(x: jax.Array) -> jax.Array:
  """Splits [B, T, ...] along T into [N, B, columns, ...], padded with zeros.

  Every chunk keeps all B rows, so that the batch axis stays sharded.
  """
  B, T = x.shape[:2]
  count = ACCELERATOR_CHUNK_TOKENS[placement.reduce_dtype()]
  if platform() == 'cpu':
    count = min(CHUNK_TOKENS, max(B * T // 4, MIN_CHUNK_TOKENS))
  columns = max(1, min(T, count // B))
  x = jnp.pad(x, ((0, 0), (0, -T % columns)) + ((0, 0),) * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(B, -1, columns, *x.shape[2:]), 1, 0)


def _nll_sum(
  shard: _Shard,
  h_BTD: jax.Array,
  embed_VD: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
) -> jax.Array:
  """Returns the sum of weights * nll over this device's tokens."""
  h_NBCD, *targets_and_weights = map(_chunks, (h_BTD, targets_BT, weights_BT))
  return _chunked_nll(shard, h_NBCD, embed_VD, *targets_and_weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_nll(
  shard: _Shard,
  h_NBCD: jax.Array,
  embed_VD: jax.Array,
  targets_NBC: jax.Array,
  weights_NBC: jax.Array,
) -> jax.Array:
  """Sums weights * nll over N chunks, holding one chunk's logits at a time."""
  embed_VD = _gathered(shard, embed_VD, h_NBCD.dtype)

  def one(total: jax.Array, chunk: Any) -> tuple[jax.Array, None]:
    h_BCD, targets_BC, weights_BC = chunk
    nll_BC, *_ = _chunk_nll(shard, h_BCD, embed_VD, targets_BC)
    return total + jnp.sum(nll_BC * weights_BC), None

  chunks = (h_NBCD, targets_NBC, weights_NBC)
  return jax.lax.scan(one, _zeros(shard.batch_axes), chunks)[0]


def _chunked_nll_fwd(
  shard: _Shard,
  h_NBCD: jax.Array,
  embed_VD: jax.Array,
  targets_NBC: jax.Array,
  weights_NBC: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """Computes the sum and the gradients from the same logits."""
  embed_VD = _gathered(shard, embed_VD, h_NBCD.dtype)

  def one(carry: Any, chunk: Any) -> tuple[Any, Any]:
    total, d_embed_VD = carry
    h_BCD, targets_BC, weights_BC = chunk
    nll_BC, exp_BCV, sum_BC, places_BC = _chunk_nll(
      shard, h_BCD, embed_VD, targets_BC
    )
    hit_BCV = places_BC[..., None] == jnp.arange(embed_VD.shape[0])
    d_logits_BCV = exp_BCV * (weights_BC / sum_BC)[..., None]
    d_logits_BCV -= jnp.where(hit_BCV, weights_BC[..., None], 0.0)
    d_logits_BCV = d_logits_BCV.astype(h_BCD.dtype)
    d_h_BCD = einsum('BCV,VD->BCD', d_logits_BCV, embed_VD)
    d_embed_VD += einsum('BCV,BCD->VD', d_logits_BCV, h_BCD)
    total += jnp.sum(nll_BC * weights_BC)
    return (total, d_embed_VD), (d_h_BCD, nll_BC)

  axes = shard.batch_axes
  embed_axes = (*axes, shard.axis) if shard.axis else axes
  start = (_zeros(axes), _zeros(embed_axes, embed_VD.shape))
  (total, d_embed_VD), (d_h_NBCD, nll_NBC) = jax.lax.scan(
    one, start, (h_NBCD, targets_NBC, weights_NBC)
  )
  if shard.columns:
    d_embed_VD = d_embed_VD.astype(placement.reduce_dtype())
    d_embed_VD = jax.lax.psum_scatter(
      d_embed_VD, shard.columns, scatter_dimension=1, tiled=True
    ).astype(jnp.float32)
  if shard.axis:
    d_h_NBCD = jax.lax.psum(d_h_NBCD, shard.axis)
  return total, (d_h_NBCD.astype(h_NBCD.dtype), d_embed_VD, nll_NBC)


def _chunked_nll_bwd(
  shard: _Shard, residuals: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
  del shard
  d_h_NBCD, d_embed_VD, nll_NBC = residuals
  d_h_NBCD = (g * d_h_NBCD).astype(d_h_NBCD.dtype)
  return d_h_NBCD, g * d_embed_VD, None, g * nll_NBC


_chunked_nll.defvjp(_chunked_nll_fwd, _chunked_nll_bwd)


def _gathered(shard: _Shard, embed_VD: jax.Array, dtype: Any) -> jax.Array:
  """Casts the output matrix and gathers its columns from all devices."""
  embed_VD = embed_VD.astype(dtype)
  if shard.columns is None:
    return embed_VD
  return jax.lax.all_gather(embed_VD, shard.columns, axis=1, tiled=True)


def _chunk_nll(
  shard: _Shard, h_BCD: jax.Array, embed_VD: jax.Array, targets_BC: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Computes a chunk's nll and the intermediates that its gradient needs.

  Returns:
    nll [B, C]; exp(logit - shift) [B, C, V] and its sum over V [B, C], where
    the shift is the maximum or the target's logit; each target's row in this
    device's part of V [B, C], out of range if another device holds the target.
  """
  logits_BCV = _logits(h_BCD, embed_VD)
  if shard.axis is None:
    if platform() == 'cpu':
      shift_BC = jnp.max(logits_BCV, axis=-1).astype(jnp.float32)
      excess_BCV = logits_BCV - shift_BC[..., None]
    else:
      # Known before the logits, which are then summed as they are computed; to
      # subtract their maximum, they would be read once more.
      shift_BC = _target_logits(h_BCD, embed_VD, targets_BC)
      excess_BCV = jnp.minimum(logits_BCV - shift_BC[..., None], MAX_EXCESS)
    exp_BCV = jnp.exp(excess_BCV)
    sum_BC = jnp.sum(exp_BCV, axis=-1)
    nll_BC = jnp.log(sum_BC) + shift_BC - _pick(logits_BCV, targets_BC)
    return nll_BC, exp_BCV, sum_BC, targets_BC
  V = embed_VD.shape[0]
  start = jax.lax.axis_index(shard.axis) * V
  is_real_V = start + jnp.arange(V) < shard.num_rows
  logits_BCV = jnp.where(is_real_V, logits_BCV, -jnp.inf)
  places_BC = targets_BC - start
  is_here_BC = (places_BC >= 0) & (places_BC < V)
  picked_BC = _pick(logits_BCV, jnp.clip(places_BC, 0, V - 1))
  picked_BC = jnp.where(is_here_BC, picked_BC, 0.0)
  max_BC = jnp.max(logits_BCV, axis=-1).astype(jnp.float32)
  max_BC = jax.lax.pmax(max_BC, shard.axis)
  exp_BCV = jnp.exp(logits_BCV - max_BC[..., None])
  sum_BC, picked_BC = jax.lax.psum(
    (jnp.sum(exp_BCV, axis=-1), picked_BC), shard.axis
  )
  return jnp.log(sum_BC) + max_BC - picked_BC, exp_BCV, sum_BC, places_BC


def _logits(h_BCD: jax.Array, embed_VD: jax.Array) -> jax.Array:
  """Returns a chunk's logits, summed in float32.

  An accelerator stores them as `h_BCD`'s type, since it reads them three times.
  """
  if platform() == 'cpu':
    return einsum('BCD,VD->BCV', h_BCD, embed_VD)
  # Not einsum(...).astype: XLA would remove the rounding and store float32.
  return jnp.einsum(
    'BCD,VD->BCV', h_BCD, embed_VD, preferred_element_type=h_BCD.dtype
  )


def _target_logits(
  h_BCD: jax.Array, embed_VD: jax.Array, targets_BC: jax.Array
) -> jax.Array:
  """Returns the logits of the targets alone, float32 [B, C]."""
  rows_BCD = embed_VD[targets_BC].astype(jnp.float32)
  return jnp.sum(h_BCD * rows_BCD, axis=-1)


def _pick(logits_BCV: jax.Array, places_BC: jax.Array) -> jax.Array:
  return jnp.take_along_axis(logits_BCV, places_BC[..., None], -1)[..., 0]


def _zeros(axes: tuple[str, ...], shape: tuple[int, ...] = ()) -> jax.Array:
  """Returns a zero scan carry, marked as varying over `axes`."""
  zeros = jnp.zeros(shape, jnp.float32)
  return jax.lax.pcast(zeros, axes, to='varying') if axes else zeros
