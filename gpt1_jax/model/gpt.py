"""Defines GPT-1: tokens to hidden states to logits (P §3.1, §4.1).

Dimension letters, here and in the names of all arrays: B batch, C choices, T
time, D n_embd, H heads, K head width, F feed-forward, V vocabulary rows, Y
classes, N tokens of a flattened batch. One block is scanned over the layers;
its parameters are stacked along a leading layer axis.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from gpt1_jax.model import dropout, layers
from gpt1_jax.model.attention import Attention
from gpt1_jax.model.layer_norm import LayerNorm
from gpt1_jax.model.linear import Linear, einsum, weight
from gpt1_jax.model.placement import platform
from gpt1_jax.settings import GPTConfig

# Arrays that remat 'dots' keeps per block besides its input: the outputs of
# products (two of them as the residual sum they enter) and, on the plain
# attention path, the logsumexp of the scores.
SAVED = ('qkv', 'attended', 'logsumexp', 'residual', 'c_fc')
# An accelerator keeps the statistics of LayerNorm, too: to compute them again,
# it would read its input from memory twice.
STATISTICS = ('mean', 'variance')


class MLP(nn.Module):
  """Applies c_fc, GELU (its tanh form) and c_proj (C: train.py)."""

  n_embd: int

  @nn.compact
  def __call__(self, h_BTD: jax.Array) -> jax.Array:
    D, F = self.n_embd, 4 * self.n_embd
    a_BTF = Linear('BTD,DF->BTF', (D, F), ('embed', 'mlp'), name='c_fc')(h_BTD)
    a_BTF = nn.with_logical_constraint(a_BTF, ('batch', None, 'mlp'))
    a_BTF = ad_checkpoint.checkpoint_name(a_BTF, 'c_fc')
    a_BTF = nn.gelu(a_BTF, approximate=True)
    return Linear('BTF,FD->BTD', (F, D), ('mlp', 'embed'), name='c_proj')(a_BTF)


class Block(nn.Module):
  """Post-LN: n = LN(x + attn(x)), h = LN(n + mlp(n)) (C: train.py)."""

  config: GPTConfig

  @nn.compact
  def __call__(
    self,
    h_BTD: jax.Array,
    layer: jax.Array,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    offsets_B: jax.Array | None,
  ) -> tuple[jax.Array, None]:
    c = self.config

    def add_norm(
      name: str, h_BTD: jax.Array, x_BTD: jax.Array, site: int
    ) -> jax.Array:
      site_id = dropout.site_id(layer, site)
      drop = dropout.Dropout(c.resid_pdrop, dropout_key, site_id, example_ids_B)
      sum_BTD = h_BTD + dropout.apply(x_BTD, drop)
      sum_BTD = ad_checkpoint.checkpoint_name(sum_BTD, 'residual')
      return LayerNorm(name=name)(sum_BTD)

    attention = Attention(
      c.n_embd, c.n_head, c.attn_pdrop, c.attention, name='attn'
    )
    a_BTD = attention(h_BTD, layer, dropout_key, example_ids_B, offsets_B)
    h_BTD = add_norm('ln_1', h_BTD, a_BTD, dropout.RESIDUAL_ATTENTION)
    m_BTD = MLP(c.n_embd, name='mlp')(h_BTD)
    h_BTD = add_norm('ln_2', h_BTD, m_BTD, dropout.RESIDUAL_MLP)
    return nn.with_logical_constraint(h_BTD, ('batch', None, None)), None


class GPT(nn.Module):
  """The decoder: returns states and the output matrix; see `logits`.

  Attributes:
    config: shape and numerics.
    unstacked: each block has its own parameters; see `unstack_params`.
  """

  config: GPTConfig
  unstacked: bool = False

  @nn.compact
  def __call__(
    self,
    tokens_BT: jax.Array,
    *,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array | None = None,
    offsets_B: jax.Array | None = None,
    lengths_B: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the last block's hidden states and the output matrix.

    With `offsets_B` the tokens continue earlier ones, whose keys and values are
    in the collection 'cache' (empty in the first call); see `decoding`.

    Args:
      tokens_BT: int32, T at most n_ctx.
      dropout_key: uint32 [2], of this update; None switches dropout off.
      example_ids_B: uint32, index of each sequence in the global batch (default
        0..B-1); dropout masks depend on it.
      offsets_B: int32, position of the first token of each row; offsets_B + T
        is at most n_ctx.
      lengths_B: ignored: later tokens overwrite what follows a row. The LSTM,
        which has the same interface, needs it.

    Returns:
      h_BTD in config.dtype, and the output matrix embed_VD in float32, where V
      is config.token_rows (plus n_ctx if softmax_rows is 'all').
    """
    del lengths_B
    if example_ids_B is None:
      example_ids_B = jnp.arange(tokens_BT.shape[0], dtype=jnp.uint32)
    c = self.config
    site = dropout.site_id(c.n_layer, dropout.EMBEDDING)
    drop = dropout.Dropout(c.embd_pdrop, dropout_key, site, example_ids_B)
    tokens_VD, positions_TD = self._matrices(drop)
    h_BTD = self._embed(tokens_VD, positions_TD, tokens_BT, offsets_B, drop)
    h_BTD = self._blocks(h_BTD, dropout_key, example_ids_B, offsets_B)
    if c.softmax_rows == 'all':
      return h_BTD, jnp.concatenate([tokens_VD, positions_TD])
    return h_BTD, tokens_VD

  def _matrices(self, drop: dropout.Dropout) -> tuple[jax.Array, jax.Array]:
    """Returns the token and the position embedding."""
    c = self.config
    tokens_VD = weight(
      self, 'tokens_embed', (c.token_rows, c.n_embd), ('vocab', 'embed')
    )
    positions_TD = weight(
      self, 'positions_embed', (c.n_ctx, c.n_embd), (None, 'embed')
    )
    if c.embedding_dropout != 'matrix':
      return tokens_VD, positions_TD
    # One matrix [tokens, specials, positions], as in C: train.py.
    matrix = jnp.concatenate([tokens_VD, positions_TD])
    rows = jnp.arange(matrix.shape[0], dtype=jnp.uint32)
    matrix = dropout.apply(matrix, drop._replace(example_ids_B=rows))
    return matrix[: c.token_rows], matrix[c.token_rows :]

  def _embed(
    self,
    tokens_VD: jax.Array,
    positions_TD: jax.Array,
    tokens_BT: jax.Array,
    offsets_B: jax.Array | None,
    drop: dropout.Dropout,
  ) -> jax.Array:
    """Returns the sum of both embeddings, [B, T, D] in config.dtype."""
    T = tokens_BT.shape[1]
    if offsets_B is None:
      positions = positions_TD[:T]
    else:
      positions = positions_TD[offsets_B[:, None] + jnp.arange(T)]
    # Each device looks up its columns; so no device needs the whole matrix, and
    # the gradient of the look-up needs no sum over fsdp.
    columns_VD = nn.with_logical_constraint(tokens_VD, ('vocab', 'embed'))
    tokens_BT = nn.with_logical_constraint(tokens_BT, ('lookup', None))
    h_BTD = columns_VD[tokens_BT] + positions
    if self.config.embedding_dropout == 'sum':
      h_BTD = dropout.apply(h_BTD, drop)
    h_BTD = h_BTD.astype(jnp.dtype(self.config.dtype))
    h_BTD = nn.with_logical_constraint(h_BTD, ('lookup', None, 'embed'))
    return nn.with_logical_constraint(h_BTD, ('batch', None, None))

  def _blocks(
    self,
    h_BTD: jax.Array,
    dropout_key: jax.Array | None,
    example_ids_B: jax.Array,
    offsets_B: jax.Array | None,
  ) -> jax.Array:
    c = self.config
    if self.unstacked:
      for layer in range(c.n_layer):
        h_BTD, _ = Block(c, name=f'h{layer}')(
          h_BTD, jnp.uint32(layer), dropout_key, example_ids_B, offsets_B
        )
    elif self._own_loop(offsets_B):
      stack = self.variables['params']['h']
      rest = (dropout_key, example_ids_B)
      h_BTD = layers.apply(_layer_fn(c), c.unroll, stack, h_BTD, rest)
    else:
      numbers = jnp.arange(c.n_layer, dtype=jnp.uint32)
      h_BTD, _ = _scanned(c)(c, name='h')(
        h_BTD, numbers, dropout_key, example_ids_B, offsets_B
      )
    return h_BTD

  def _own_loop(self, offsets_B: jax.Array | None) -> bool:
    """True on CPU, where our own layer loop needs less memory than nn.scan.

    nn.scan also creates the parameters and runs with a cache.
    """
    plain = offsets_B is None and not self.is_initializing()
    return self.config.looped and plain and platform() == 'cpu'


def logits(h_BTD: jax.Array, embed_VD: jax.Array) -> jax.Array:
  """Returns float32 logits [B, T, V]: the tied embedding, no bias (P §3.1)."""
  return einsum('BTD,VD->BTV', h_BTD, embed_VD)


def unstack_params(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns parameters with a subtree per block, for a GPT with `unstacked`.

  Slicing stacked parameters copies a block before its products. For a whole
  batch the copy is negligible; for a single token it takes longer than the
  product, so decoding unstacks them.
  """
  stacked, out = params['h'], {k: v for k, v in params.items() if k != 'h'}
  for layer in range(len(stacked['ln_1']['bias'])):
    out[f'h{layer}'] = jax.tree.map(lambda x, n=layer: x[n], stacked)
  return out


def num_parameters(config: GPTConfig) -> int:
  """Returns the number of parameters: 116,534,784 at the released shape."""
  D = config.n_embd
  block = 12 * D * D + 13 * D
  return config.n_layer * block + (config.token_rows + config.n_ctx) * D


def flops_per_token(config: GPTConfig) -> float:
  """Returns model FLOPs for each token of an update, forward and backward.

  6 * (12 L D^2 + V D) + 12 L n_ctx D: counts attention in full and embedding
  look-ups as free (docs/reference.md §5). 753 MFLOP for GPT-1.
  """
  c = config
  products = 12 * c.n_layer * c.n_embd**2 + c.token_rows * c.n_embd
  return 6.0 * products + 12.0 * c.n_layer * c.n_ctx * c.n_embd


def _scanned(config: GPTConfig) -> Callable[..., Any]:
  """Returns flax's scan of Block over the layers, with stacked parameters."""
  return nn.scan(
    _remat(config, nn.remat, Block),
    variable_axes={'params': 0, 'cache': 0},
    split_rngs={'params': True},
    in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
    length=config.n_layer,
    unroll=min(config.unroll, config.n_layer),
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )


def _layer_fn(config: GPTConfig) -> layers.Layer:
  """Returns Block as a function for `layers.apply`."""

  def block(
    params: Any, h_BTD: jax.Array, layer: jax.Array, rest: Any
  ) -> jax.Array:
    dropout_key, example_ids_B = rest
    out: Any = Block(config, parent=None).apply(
      {'params': params}, h_BTD, layer, dropout_key, example_ids_B, None
    )
    return out[0]

  return _remat(config, jax.checkpoint, block)


def _remat(config: GPTConfig, checkpoint: Any, block: Any) -> Any:
  """Wraps a block in `nn.remat` as config.remat says."""
  remat, on_cpu = config.remat, platform() == 'cpu'
  if remat == 'auto':
    remat = 'none' if on_cpu and not config.looped else 'dots'
  if remat == 'none':
    return block
  policy = None
  if remat != 'full':
    saved = set(SAVED if on_cpu else SAVED + STATISTICS)
    if remat == 'dots_except_qkv':
      saved.remove('qkv')
    policy = jax.checkpoint_policies.save_only_these_names(*saved)
  # A loop separates the two passes; in straight-line code the compiler would
  # merge the recomputation with the forward pass.
  return checkpoint(block, policy=policy, prevent_cse=not config.looped)
