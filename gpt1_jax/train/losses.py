"""The LM loss, the task losses, and their sum (P §3.1, §3.2).

Every loss here is a sum over examples; the step divides by their number, so
that microbatches, padding and hosts change nothing.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec

from gpt1_jax.model.linear import einsum
from gpt1_jax.train.sharding import BATCH_AXES, VOCAB_AXIS

# Tokens whose logits are alive at a time on a device: a quarter of them, within
# bounds. Those of a whole batch in float32 would be the largest array of the
# program; with fewer at a time the matrix's gradient is read and written more
# often than it is worth.
CHUNK_TOKENS = 2048
LEAST_TOKENS = 256
# Of the LM loss in fine-tuning; see `lm_weights`.
LM_REDUCTIONS = ('tokens', 'sequences')


def lm_loss(
  h_BTD: jax.Array,
  embed_VD: jax.Array,
  tokens_BT: jax.Array,
  weights_BT: jax.Array,
) -> jax.Array:
  """Weighted sum of -log p(token t | tokens before t), in nats.

  The shift happens here: the state at t - 1 predicts the token at t.

  Args:
    h_BTD: states of the last block.
    embed_VD: float32, the matrix that makes logits.
    tokens_BT: int32.
    weights_BT: float32, of each token as a target; the first column is never
      a target and is ignored.

  Returns:
    float32 scalar.
  """
  targets_BT = jnp.roll(tokens_BT, -1, axis=1)
  weights_BT = jnp.roll(weights_BT.at[:, 0].set(0.0), -1, axis=1)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size <= 1:
    return _nll_sum(None, None, h_BTD, embed_VD, targets_BT, weights_BT)
  # Each device takes its rows of the batch and, of a mesh's tensor axis, its
  # part of the vocabulary, made to divide by rows that are masked. The matrix's
  # gradient is summed over the batch once, after all chunks.
  V, axis = embed_VD.shape[0], None
  rows, vocab = PartitionSpec(BATCH_AXES), PartitionSpec()
  if mesh.shape[VOCAB_AXIS] > 1:
    axis, vocab = VOCAB_AXIS, PartitionSpec(VOCAB_AXIS)
    padding = -V % mesh.shape[axis]
    embed_VD = jnp.pad(embed_VD, ((0, padding), (0, 0)))
    # As the parameter is, so that its gradient is gathered once.
    embed_VD = nn.with_logical_constraint(embed_VD, ('vocab', 'embed'))

  def local(h_BTD, embed_VD, targets_BT, weights_BT):
    embed_VD = jax.lax.pcast(embed_VD, BATCH_AXES, to='varying')
    total = _nll_sum(axis, V, h_BTD, embed_VD, targets_BT, weights_BT)
    return jax.lax.psum(total, BATCH_AXES)

  return jax.shard_map(
    local, in_specs=(rows, vocab, rows, rows), out_specs=PartitionSpec()
  )(h_BTD, embed_VD, targets_BT, weights_BT)


def _nll_sum(axis, num_rows, h_BTD, embed_VD, targets_BT, weights_BT):
  """Sum of weights * nll, in chunks of whole columns.

  Args:
    axis: of the mesh, over which the rows of embed_VD are spread, or None.
    num_rows: of the vocabulary, without padding; None: on one device.
    h_BTD, embed_VD, targets_BT, weights_BT: this device's part.
  """
  return _chunked_nll(
    axis,
    num_rows,
    _chunks(h_BTD),
    embed_VD,
    _chunks(targets_BT),
    _chunks(weights_BT),
  )


def token_log_probs(
  h_BTD: jax.Array, embed_VD: jax.Array, tokens_BT: jax.Array
) -> jax.Array:
  """float32 [B, T]: log p(token t | tokens before t), in nats; 0 at t = 0.

  Logits of one chunk at a time, as in `lm_loss`; see there for the arguments.
  """
  B, T, _ = h_BTD.shape
  targets_BT = jnp.roll(tokens_BT, -1, axis=1)

  def one(chunk):
    return _nll(None, None, chunk[0], embed_VD, chunk[1])[0]

  nll_NBC = jax.lax.map(one, (_chunks(h_BTD), _chunks(targets_BT)))
  nll_BT = jnp.moveaxis(nll_NBC, 0, 1).reshape(B, -1)[:, :T]
  return jnp.roll(-nll_BT, 1, axis=1).at[:, 0].set(0.0)


def _chunks(x: jax.Array) -> jax.Array:
  """[B, T, ...] → [N, B, columns, ...], padded with zeros.

  Whole columns make a chunk, so that the batch axis stays sharded.
  """
  B, T = x.shape[:2]
  count = min(CHUNK_TOKENS, max(B * T // 4, LEAST_TOKENS))
  columns = max(1, min(T, count // B))
  x = jnp.pad(x, ((0, 0), (0, -T % columns)) + ((0, 0),) * (x.ndim - 2))
  x = x.reshape(B, -1, columns, *x.shape[2:])
  return jnp.moveaxis(x, 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_nll(axis, num_rows, h_NBCD, embed_VD, targets_NBC, weights_NBC):
  """Sum of weights * nll over N chunks, logits of one chunk at a time."""

  def one(total, chunk):
    h_BCD, targets_BC, weights_BC = chunk
    nll_BC, _, _, _ = _nll(axis, num_rows, h_BCD, embed_VD, targets_BC)
    return total + jnp.sum(nll_BC * weights_BC), None

  total, _ = jax.lax.scan(
    one,
    _zeros(BATCH_AXES if num_rows else ()),
    (h_NBCD, targets_NBC, weights_NBC),
  )
  return total


def _chunked_nll_fwd(
  axis, num_rows, h_NBCD, embed_VD, targets_NBC, weights_NBC
):
  """The sum and, while the logits are at hand, its gradients."""

  def one(carry, chunk):
    total, d_embed_VD = carry
    h_BCD, targets_BC, weights_BC = chunk
    nll_BC, exp_BCV, sum_BC, places_BC = _nll(
      axis, num_rows, h_BCD, embed_VD, targets_BC
    )
    hit_BCV = places_BC[..., None] == jnp.arange(embed_VD.shape[0])
    d_logits_BCV = exp_BCV * (weights_BC / sum_BC)[..., None]
    d_logits_BCV -= jnp.where(hit_BCV, weights_BC[..., None], 0.0)
    d_logits_BCV = d_logits_BCV.astype(h_BCD.dtype)
    d_h_BCD = einsum('BCV,VD->BCD', d_logits_BCV, embed_VD)
    d_embed_VD += einsum('BCV,BCD->VD', d_logits_BCV, h_BCD)
    total += jnp.sum(nll_BC * weights_BC)
    return (total, d_embed_VD), (d_h_BCD, nll_BC)

  varying = BATCH_AXES if num_rows else ()
  (total, d_embed_VD), (d_h_NBCD, nll_NBC) = jax.lax.scan(
    one,
    (
      _zeros(varying),
      _zeros((*varying, axis) if axis else varying, embed_VD.shape),
    ),
    (h_NBCD, targets_NBC, weights_NBC),
  )
  if axis:
    d_h_NBCD = jax.lax.psum(d_h_NBCD, axis)
  return total, (d_h_NBCD.astype(h_NBCD.dtype), d_embed_VD, nll_NBC)


def _chunked_nll_bwd(axis, num_rows, residuals, g):
  del axis, num_rows
  d_h_NBCD, d_embed_VD, nll_NBC = residuals
  return (
    (g * d_h_NBCD).astype(d_h_NBCD.dtype),
    g * d_embed_VD,
    None,
    g * nll_NBC,
  )


_chunked_nll.defvjp(_chunked_nll_fwd, _chunked_nll_bwd)


def _nll(axis, num_rows, h_BCD, embed_VD, targets_BC):
  """Nll, exp(logit - greatest), its sum over V, where targets stand in V."""
  logits_BCV = einsum('BCD,VD->BCV', h_BCD, embed_VD)
  if axis is None:
    most_BC = jnp.max(logits_BCV, axis=-1)
    exp_BCV = jnp.exp(logits_BCV - most_BC[..., None])
    sum_BC = jnp.sum(exp_BCV, axis=-1)
    nll_BC = jnp.log(sum_BC) + most_BC - _pick(logits_BCV, targets_BC)
    return nll_BC, exp_BCV, sum_BC, targets_BC
  V = embed_VD.shape[0]
  start = jax.lax.axis_index(axis) * V
  real_V = start + jnp.arange(V) < num_rows
  logits_BCV = jnp.where(real_V, logits_BCV, -jnp.inf)
  places_BC = targets_BC - start
  here_BC = (places_BC >= 0) & (places_BC < V)
  picked_BC = _pick(logits_BCV, jnp.clip(places_BC, 0, V - 1))
  picked_BC = jnp.where(here_BC, picked_BC, 0.0)
  most_BC = jax.lax.pmax(jnp.max(logits_BCV, axis=-1), axis)
  exp_BCV = jnp.exp(logits_BCV - most_BC[..., None])
  sum_BC, picked_BC = jax.lax.psum((jnp.sum(exp_BCV, axis=-1), picked_BC), axis)
  return jnp.log(sum_BC) + most_BC - picked_BC, exp_BCV, sum_BC, places_BC


def _pick(logits_BCV, places_BC):
  """The logit at each place."""
  return jnp.take_along_axis(logits_BCV, places_BC[..., None], -1)[..., 0]


def _zeros(axes, shape=()):
  """What a scan starts from that adds to it values that differ along axes."""
  zeros = jnp.zeros(shape, jnp.float32)
  return jax.lax.pcast(zeros, axes, to='varying') if axes else zeros


def task_loss(
  outputs_BY: jax.Array, label_B: jax.Array, low: float = 0.0
) -> jax.Array:
  """float32 [B]: cross-entropy, or squared error where labels are floats.

  Args:
    outputs_BY: float32, a logit for each class (or each choice). For float
      labels: one column is the value; more are logits of the whole numbers
      from `low` on, and the cross-entropy is against `soft_classes`.
    label_B: int32 classes, or float32 values.
    low: see above.
  """
  valued = jnp.issubdtype(label_B.dtype, jnp.floating)
  if valued and outputs_BY.shape[1] == 1:
    return jnp.square(outputs_BY[:, 0] - label_B)
  log_probs_BY = jax.nn.log_softmax(outputs_BY)
  if valued:
    target_BY = soft_classes(label_B - low, outputs_BY.shape[1])
    return -jnp.sum(target_BY * log_probs_BY, axis=1)
  return -jnp.take_along_axis(log_probs_BY, label_B[:, None], axis=1)[:, 0]


def lm_weights(batch: dict[str, jax.Array], reduction: str) -> jax.Array:
  """Weights with which `lm_loss` is a mean times the number of examples.

  Args:
    batch: of fine-tuning, whole or a part: 'lm_weights' float32 [B, C, T], 1 at
      the targets of the LM; 'example_weight' float32 [B], 0 for padding;
      'targets' float32 [B], how many an example of the whole batch has, on
      average.
    reduction: 'tokens', the mean over the batch's targets, as pretraining has
      it (P §3.2: L1 is the objective of §3.1); or 'sequences', the mean over
      sequences of the mean over each one's targets (C: train.py).

  Returns:
    float32 [B, C, T].
  """
  weights_BCT = batch['lm_weights'].at[..., 0].set(0.0)
  weights_BCT *= batch['example_weight'][:, None, None]
  if reduction == 'tokens':
    return weights_BCT / batch['targets'][:, None, None]
  each_BC1 = jnp.maximum(weights_BCT.sum(axis=2, keepdims=True), 1.0)
  return weights_BCT / each_BC1 / weights_BCT.shape[1]


def soft_classes(value_B: jax.Array, num_classes: int) -> jax.Array:
  """[B, Y]: a value spread over its two neighbours, so that it is the mean.

  2.3 is 0.7 of class 2 and 0.3 of class 3; values lie in 0 .. num_classes - 1.
  """
  value_B1 = jnp.clip(value_B, 0.0, num_classes - 1.0)[:, None]
  return jnp.maximum(0.0, 1.0 - jnp.abs(value_B1 - jnp.arange(num_classes)))
