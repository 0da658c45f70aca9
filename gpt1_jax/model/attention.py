"""Causal multi-head self-attention (P §3.1, §4.1).

`attend` has it as the released code does: scores of every pair of positions,
masked, softmax in float32, dropout on the probabilities. Decoding takes it,
with keys and values kept from the tokens before. The plain path of training
leaves out what is masked (`causal`), on a TPU a kernel does (`flash`), on a GPU
cuDNN where nothing is dropped.
"""

import functools
import math

import jax
import jax.numpy as jnp
from absl import logging
from flax import linen as nn
from jax import ad_checkpoint

from gpt1_jax.model import causal, dropout, flash
from gpt1_jax.model.linear import Linear, einsum

MASKED = -1e9  # C: train.py, mask_attn_weights
PATHS = ('auto', 'plain', 'flash')
# Mosaic, which compiles the kernel, refuses its products there.
OLD = ('TPU v2', 'TPU v3')


def attend(
  q_BTHK: jax.Array,
  k_BTHK: jax.Array,
  v_BTHK: jax.Array,
  *,
  seen: jax.Array,
  rate: float,
  dropout_key: jax.Array | None,
  site: jax.Array,
  example_ids_B: jax.Array,
) -> jax.Array:
  """Softmax(q k / sqrt(K)) v over the positions that are seen.

  Args:
    q_BTHK: queries, of any float type.
    k_BTHK, v_BTHK: keys and values, of that type; S positions of them.
    seen: bool [T, S] or [B, 1, T, S]: which keys a query sees.
    rate, dropout_key, site, example_ids_B: dropout on the probabilities, see
      `dropout.dropout`.

  Returns:
    [B, T, H, K] in the type of the queries.

  """
  K = q_BTHK.shape[3]
  scores_BHTS = einsum('BTHK,BSHK->BHTS', q_BTHK, k_BTHK) * (K**-0.5)
  scores_BHTS = jnp.where(seen, scores_BHTS, MASKED)
  probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1)
  probs_BHTS = dropout.dropout(
    probs_BHTS, rate, dropout_key, site, example_ids_B
  )
  out_BTHK = einsum('BHTS,BSHK->BTHK', probs_BHTS.astype(q_BTHK.dtype), v_BTHK)
  return out_BTHK.astype(q_BTHK.dtype)


def attend_flash(
  qkv_CBTN: jax.Array,
  n_head: int,
  *,
  rate: float,
  dropout_key: jax.Array | None,
  site: jax.Array,
  example_ids_B: jax.Array,
) -> jax.Array:
  """`attend` over earlier positions by the kernel, on the mesh in force.

  Each device takes its sequences and its heads; which they are among all
  enters dropout's bits, so that no mesh changes them.

  Args:
    qkv_CBTN: queries, keys and values, their heads side by side in N columns:
      so they are laid out alike in and around the kernel.
    n_head: heads.
    rate, dropout_key, site, example_ids_B: as for `attend`.

  Returns:
    [B, T, N] in the type of the queries.

  """
  B = qkv_CBTN.shape[1]
  rate = 0.0 if dropout_key is None else rate
  keys_B2 = jnp.zeros((B, 2), jnp.uint32)
  if rate:
    keys_B2 = jnp.stack(
      dropout.row_keys(dropout_key, site, example_ids_B), axis=1
    )

  def local(qkv_CBTN, keys_B2, heads_H):
    return flash.attend(
      qkv_CBTN,
      keys_B2,
      heads_H[:1],
      n_head=len(heads_H),
      rate=rate,
      interpret=platform() != 'tpu',
    )

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size > 1:
    batch, heads = nn.logical_to_mesh_axes(('batch', 'heads'))
    spec = jax.sharding.PartitionSpec
    local = jax.shard_map(
      local,
      in_specs=(spec(None, batch, None, heads), spec(batch), spec(heads)),
      out_specs=spec(batch, None, heads),
      check_vma=False,  # a kernel states none
    )
  return local(qkv_CBTN, keys_B2, jnp.arange(n_head, dtype=jnp.uint32))


def why_plain(path: str, B: int, T: int, H: int, K: int) -> str | None:
  """Why the plain path is taken and not the kernel; None: the kernel is.

  Args:
    path: of PATHS: 'auto' takes the kernel on a TPU, 'flash' everywhere (off
      a TPU as plain operations, slowly: for tests), both if the sizes allow.
    B, T, H, K: sizes of the queries.
  """
  if path == 'plain':
    return 'config.model.attention is plain'
  if path == 'auto' and platform() != 'tpu':
    return f'the kernel is for TPUs, this is a {platform()}'
  if path == 'auto' and _kind() in OLD:
    return f'the kernel does not compile for a {_kind()}'
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.size > 1:
    for name, size in (('batch', B), ('heads', H)):
      (axes,) = nn.logical_to_mesh_axes((name,))
      axes = axes if isinstance(axes, tuple) else (axes,)
      parts = math.prod(mesh.shape[axis] for axis in axes if axis)
      if size % parts:
        return f'{size} of {name} do not divide over {parts} devices'
  return flash.why_not(T, K)


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh in force, which may be a topology's."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def _kind() -> str:
  device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
  return device.device_kind


@functools.cache
def _say(why: str) -> None:
  """Once for each reason; a warning where the kernel could be."""
  level = logging.WARNING if platform() == 'tpu' else logging.INFO
  logging.log(level, 'attention takes the plain path: %s', why)


def _cudnn(q_BTHK: jax.Array, path: str, dropped: dict) -> bool:
  """Whether cuDNN's attention, which takes bfloat16, does the same."""
  off = dropped['dropout_key'] is None or dropped['rate'] == 0.0
  here = path == 'auto' and platform() == 'gpu'
  return off and here and q_BTHK.dtype == jnp.bfloat16


class Attention(nn.Module):
  """c_attn (queries, keys, values in one product), attend, c_proj.

  Decoding, it keeps as many positions as its first call had, or as there are
  in the cache that it is given.

  Attributes:
    chosen: of PATHS; see `why_plain`.
  """

  n_embd: int
  n_head: int
  attn_pdrop: float
  chosen: str

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
    dropped = {
      'rate': self.attn_pdrop,
      'dropout_key': dropout_key,
      'site': dropout.site_id(layer, dropout.ATTENTION),
      'example_ids_B': example_ids_B,
    }
    why = (
      why_plain(self.chosen, B, T, H, K) if offsets_B is None else 'decoding'
    )
    qkv_spec = 'BTD,DCHK->BTCHK'
    qkv_axes = ('batch', None, None, 'heads', None)
    out_spec, merged, out_merged = 'BTHK,HKD->BTD', None, None
    if why is None:
      # N is H and K in one: what the kernel takes without a copy.
      qkv_spec = 'BTD,DCN->CBTN'
      qkv_axes = (None, 'batch', None, 'heads')
      out_spec, merged, out_merged = 'BTN,ND->BTD', (D, 3, D), (D, D)
    qkv = Linear(
      qkv_spec,
      (D, 3, H, K),
      ('embed', None, 'heads', None),
      bias_ndim=3,
      merged=merged,
      name='c_attn',
    )(h_BTD)
    qkv = nn.with_logical_constraint(qkv, qkv_axes)
    qkv = ad_checkpoint.checkpoint_name(qkv, 'qkv')
    if why is None:
      a = attend_flash(qkv, H, **dropped)
      a = ad_checkpoint.checkpoint_name(a, 'attended')
    else:
      if offsets_B is None and not self.is_initializing():
        _say(why)
      a = self._plain(qkv, offsets_B, dropped)
    return Linear(
      out_spec,
      (H, K, D),
      ('heads', None, 'embed'),
      merged=out_merged,
      name='c_proj',
    )(a)

  def _plain(
    self, qkv_BTCHK: jax.Array, offsets_B: jax.Array | None, dropped: dict
  ) -> jax.Array:
    """[B, T, H, K]: over the positions before, or all that are kept."""
    q_BTHK, k_BTHK, v_BTHK = (qkv_BTCHK[:, :, i] for i in range(3))
    if offsets_B is None:
      if not _cudnn(q_BTHK, self.chosen, dropped):
        return causal.attend(qkv_BTCHK, **dropped)
      a_BTHK = jax.nn.dot_product_attention(
        q_BTHK, k_BTHK, v_BTHK, is_causal=True, implementation='cudnn'
      )
      return ad_checkpoint.checkpoint_name(a_BTHK, 'attended')
    k_BTHK = self._keep('k', k_BTHK, offsets_B)
    v_BTHK = self._keep('v', v_BTHK, offsets_B)
    places_BT = offsets_B[:, None] + jnp.arange(q_BTHK.shape[1])
    seen = jnp.arange(k_BTHK.shape[1]) <= places_BT[:, None, :, None]
    return attend(q_BTHK, k_BTHK, v_BTHK, seen=seen, **dropped)

  def _keep(
    self, name: str, new_BTHK: jax.Array, offsets_B: jax.Array
  ) -> jax.Array:
    """All positions [B, S, H, K], the new ones put in their places."""
    kept = self.variable('cache', name, jnp.zeros_like, new_BTHK)
    put = jax.vmap(
      lambda old_THK, new_THK, start: jax.lax.dynamic_update_slice(
        old_THK, new_THK, (start, 0, 0)
      )
    )
    kept.value = put(kept.value, new_BTHK, offsets_B)
    return kept.value
