"""Computes causal multi-head self-attention (P §3.1, §4.1) in several ways.

`attend` follows the released code: masked scores of all pairs of positions,
softmax in float32, dropout on the probabilities. Decoding uses it with cached
keys and values. Training uses `causal`, which skips masked blocks; on a TPU the
Pallas kernels of `flash`; on a GPU, on request, those of `flash_gpu`, or cuDNN
if there is no dropout.
"""

import functools
import importlib
import math
from types import ModuleType

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn
from jax import ad_checkpoint

from gpt1_jax.model import causal, dropout, placement, tiles
from gpt1_jax.model.linear import Linear, einsum
from gpt1_jax.model.placement import device_kind, platform

MASKED = -1e9  # C: train.py, mask_attn_weights
# Mosaic, the compiler of the kernel, refuses its products there.
UNSUPPORTED_TPUS = ('TPU v2', 'TPU v3')


def attend(
  q_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHK: jax.Array,
  mask: jax.Array,
  drop: dropout.Dropout,
) -> jax.Array:
  """Returns softmax(q k / sqrt(K)) v over the positions in the mask.

  Args:
    q_BTHK: queries, any float type.
    k_BTHK, v_BTHK: keys and values of the same type, at S positions.
    mask: bool [T, S] or [B, 1, T, S], True where a query sees a key.
    drop: dropout of the probabilities.

  Returns:
    [B, T, H, K] in the type of the queries.
  """
  probs_BHTS = dropout.apply(probabilities(q_BTHK, k_BTHK, mask), drop)
  out_BTHK = einsum('BHTS,BSHK->BTHK', probs_BHTS.astype(q_BTHK.dtype), v_BTHK)
  return out_BTHK.astype(q_BTHK.dtype)


def probabilities(
  q_BTHK: jax.Array, k_BTHK: jax.Array, mask: jax.Array
) -> jax.Array:
  """Returns softmax(q k / sqrt(K)), float32 [B, H, T, S]; see `attend`."""
  K = q_BTHK.shape[3]
  scores_BHTS = einsum('BTHK,BSHK->BHTS', q_BTHK, k_BTHK) * (K**-0.5)
  return jax.nn.softmax(jnp.where(mask, scores_BHTS, MASKED), axis=-1)


def kernels() -> ModuleType:
  """Returns the module of this platform's kernels (on a CPU, the TPU's)."""
  kind = 'flash_gpu' if platform() == 'gpu' else 'flash'
  return importlib.import_module(f'gpt1_jax.model.{kind}')  # Pallas: slow


def attend_flash(
  qkv_CBTN: jax.Array,
  n_head: int,
  drop: dropout.Dropout,
  module: ModuleType,
) -> jax.Array:
  """Runs an attention kernel on the current mesh, causally masked.

  Each device computes its sequences and its heads. Dropout bits depend on the
  global number of a head, so they are the same on every mesh.

  Args:
    qkv_CBTN: queries, keys and values (C = 3), the heads side by side in N
      columns: a layout that XLA passes to the kernel without a copy.
    n_head: heads.
    drop: dropout of the probabilities.
    module: from `kernels`.

  Returns:
    [B, T, N] in the type of the queries.
  """
  B = qkv_CBTN.shape[1]
  rate = 0.0 if drop.key is None else drop.rate
  keys_B2 = jnp.zeros((B, 2), jnp.uint32)
  if rate:
    keys_B2 = jnp.stack(dropout.row_keys(drop), axis=1)

  def local(
    qkv_CBTN: jax.Array, keys_B2: jax.Array, heads_H: jax.Array
  ) -> jax.Array:
    static = tiles.Static(len(heads_H), rate, interpret=platform() == 'cpu')
    return module.attend(static, qkv_CBTN, keys_B2, heads_H[:1])

  if placement.is_partitioned():
    batch, heads = _mesh_axes('batch', 'heads')
    spec = jax.sharding.PartitionSpec
    local = jax.shard_map(
      local,
      in_specs=(spec(None, batch, None, heads), spec(batch), spec(heads)),
      out_specs=spec(batch, None, heads),
      axis_names=set(placement.automatic_axes()),
      check_vma=False,  # pallas_call declares no varying axes
    )
  return local(qkv_CBTN, keys_B2, jnp.arange(n_head, dtype=jnp.uint32))


def fallback_reason(path: str, B: int, T: int, H: int, K: int) -> str | None:
  """Returns why the kernel cannot run; None if it can.

  Args:
    path: config.model.attention. 'auto' runs the kernel on a TPU; 'flash' runs
      it anywhere (on a CPU interpreted, slowly: for tests).
    B, T, H, K: shape of the queries.
  """
  if path == 'plain':
    return 'config.model.attention is plain'
  if path == 'auto' and platform() == 'gpu':
    return (
      'the GPU kernel has not run on a card yet; '
      '--config.model.attention=flash selects it'
    )
  if path == 'auto' and platform() != 'tpu':
    return f'the kernel is for TPUs and GPUs, this is a {platform()}'
  if path == 'auto' and device_kind() in UNSUPPORTED_TPUS:
    return f'the kernel does not compile for a {device_kind()}'
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size > 1:
    for name, size in (('batch', B), ('heads', H)):
      (axes,) = _mesh_axes(name)
      axes = axes if isinstance(axes, tuple) else (axes,)
      parts = math.prod(mesh.shape[axis] for axis in axes if axis)
      if size % parts:
        return f'{name} of {size} does not split evenly over {parts} devices'
  try:
    return kernels().unsupported_reason(T, K)
  except ImportError as error:  # jax 0.12 announces the end of Pallas' Triton
    return f'this version of jax lacks what the kernel needs ({error})'


def _mesh_axes(*names: str) -> jax.sharding.PartitionSpec:
  """Returns the mesh axes of logical axes, by the active table."""
  spec = nn.logical_to_mesh_axes(names)
  assert spec is not None
  return spec


@functools.cache
def log_fallback(reason: str) -> None:
  """Logs each reason once; as a warning on a TPU, else at level info."""
  level = logging.WARNING if platform() == 'tpu' else logging.INFO
  logging.log(level, 'attention runs without the kernel: %s', reason)


class Attention(nn.Module):
  """Projects to queries, keys and values (c_attn), attends, projects (c_proj).

  With offsets_B it attends to cached keys and values, and adds the new ones.
  The cache has as many positions as the first call has tokens, unless the
  caller passes one in. If the collection 'intermediates' is mutable, the
  probabilities are sown there.

  Attributes:
    n_embd, n_head, attn_pdrop: see `settings.GPTConfig`.
    implementation: config.model.attention; see `fallback_reason`.
  """

  n_embd: int
  n_head: int
  attn_pdrop: float
  implementation: str

  @nn.compact
  def __call__(
    self,
    h_BTD: jax.Array,
    layer: jax.Array,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    offsets_B: jax.Array | None,
  ) -> jax.Array:
    D, H, K = self.n_embd, self.n_head, self.n_embd // self.n_head
    B, T, _ = h_BTD.shape
    site = dropout.site_id(layer, dropout.ATTENTION)
    drop = dropout.Dropout(self.attn_pdrop, dropout_key, site, example_ids_B)
    reason: str | None = 'decoding'
    sown = self.is_mutable_collection('intermediates')
    if sown:
      reason = 'the attention probabilities are requested'
    elif offsets_B is None:
      reason = fallback_reason(self.implementation, B, T, H, K)
    qkv_spec, out_spec = 'BTD,DCHK->BTCHK', 'BTHK,HKD->BTD'
    qkv_axes: tuple[str | None, ...] = ('batch', None, None, 'heads', None)
    qkv_merged, out_merged = None, None
    if reason is None:  # N merges H and K, as the kernel expects
      qkv_spec, out_spec = 'BTD,DCN->CBTN', 'BTN,ND->BTD'
      qkv_axes = (None, 'batch', None, 'heads')
      qkv_merged, out_merged = (D, 3, D), (D, D)
    qkv = Linear(
      qkv_spec,
      (D, 3, H, K),
      ('embed', None, 'heads', None),
      bias_ndim=3,
      merged=qkv_merged,
      name='c_attn',
    )(h_BTD)
    qkv = nn.with_logical_constraint(qkv, qkv_axes)
    qkv = ad_checkpoint.checkpoint_name(qkv, 'qkv')
    if reason is None:
      a = attend_flash(qkv, H, drop, kernels())
    elif sown:
      a = self._attend_sown(qkv, drop)
    elif offsets_B is None:
      if not self.is_initializing():
        log_fallback(reason)
      a = self._attend_plain(qkv, drop)
    else:
      a = self._attend_cached(qkv, drop, offsets_B)
    return Linear(
      out_spec,
      (H, K, D),
      ('heads', None, 'embed'),
      merged=out_merged,
      name='c_proj',
    )(a)

  def _attend_plain(
    self, qkv_BTCHK: jax.Array, drop: dropout.Dropout
  ) -> jax.Array:
    """Attends with cuDNN if it can run (bfloat16 only), else with `causal`."""
    keep_all = drop.key is None or drop.rate == 0.0
    on_gpu = self.implementation == 'auto' and platform() == 'gpu'
    if not (keep_all and on_gpu and qkv_BTCHK.dtype == jnp.bfloat16):
      return causal.attend(qkv_BTCHK, drop)
    try:
      a_BTHK = jax.nn.dot_product_attention(
        *(qkv_BTCHK[:, :, i] for i in range(3)),
        is_causal=True,
        implementation='cudnn',
      )
    except RuntimeError as e:  # ROCm, or a CUDA installation without it
      log_fallback(f'cuDNN does not run here ({e})')
      return causal.attend(qkv_BTCHK, drop)
    return ad_checkpoint.checkpoint_name(a_BTHK, 'attended')

  def _attend_sown(
    self, qkv_BTCHK: jax.Array, drop: dropout.Dropout
  ) -> jax.Array:
    """Attends causally and sows the probabilities, [B, H, T, T]."""
    q_BTHK, k_BTHK, v_BTHK = (qkv_BTCHK[:, :, i] for i in range(3))
    mask = jnp.tri(q_BTHK.shape[1], dtype=bool)
    self.sow(
      'intermediates', 'probabilities', probabilities(q_BTHK, k_BTHK, mask)
    )
    return attend(q_BTHK, k_BTHK, v_BTHK, mask, drop)

  def _attend_cached(
    self, qkv_BTCHK: jax.Array, drop: dropout.Dropout, offsets_B: jax.Array
  ) -> jax.Array:
    """Attends to the cached positions up to each query's own."""
    q_BTHK, k_BTHK, v_BTHK = (qkv_BTCHK[:, :, i] for i in range(3))
    k_BSHK = self._cached('k', k_BTHK, offsets_B)
    v_BSHK = self._cached('v', v_BTHK, offsets_B)
    positions_BT = offsets_B[:, None] + jnp.arange(q_BTHK.shape[1])
    mask = jnp.arange(k_BSHK.shape[1]) <= positions_BT[:, None, :, None]
    return attend(q_BTHK, k_BSHK, v_BSHK, mask, drop)

  def _cached(
    self, name: str, new_BTHK: jax.Array, offsets_B: jax.Array
  ) -> jax.Array:
    """Writes new keys or values into the cache; returns all, [B, S, H, K]."""
    cache = self.variable('cache', name, jnp.zeros_like, new_BTHK)
    write = jax.vmap(
      lambda old_SHK, new_THK, offset: jax.lax.dynamic_update_slice(
        old_SHK, new_THK, (offset, 0, 0)
      )
    )
    cache.value = write(cache.value, new_BTHK, offsets_B)
    return cache.value
