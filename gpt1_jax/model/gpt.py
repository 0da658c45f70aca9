"""GPT-1: tokens to hidden states to logits (P §3.1, §4.1).

Dimension letters, here and wherever a shape rides in a name: B batch, C
choices, T time, D n_embd, H heads, K head width, F feed-forward, V vocabulary
rows, Y classes, N tokens of a batch laid flat. The 12 blocks are one scanned
block with parameters stacked on a leading layer axis.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import ad_checkpoint

from gpt1_jax.model import dropout, layers
from gpt1_jax.model.attention import Attention, platform
from gpt1_jax.model.linear import Linear, einsum, normal_init
from gpt1_jax.settings import GPTConfig

# What remat 'dots' keeps of a block besides its input: what products make, the
# residual sums in the place of two of them, in the type of the computation; and
# of the plain path's softmax what it divided by.
SAVED = ('qkv', 'attended', 'logsumexp', 'residual', 'c_fc')


class MLP(nn.Module):
  """c_fc, GELU in its tanh form, c_proj (C: train.py)."""

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

    def add_norm(name, h_BTD, x_BTD, site):
      site = dropout.site_id(layer, site)
      drop = dropout.Dropout(c.resid_pdrop, dropout_key, site, example_ids_B)
      x_BTD = dropout.apply(x_BTD, drop)
      sum_BTD = ad_checkpoint.checkpoint_name(h_BTD + x_BTD, 'residual')
      return _layer_norm(name, sum_BTD)

    attention = Attention(
      c.n_embd, c.n_head, c.attn_pdrop, c.attention, name='attn'
    )
    a_BTD = attention(h_BTD, layer, dropout_key, example_ids_B, offsets_B)
    h_BTD = add_norm('ln_1', h_BTD, a_BTD, dropout.RESIDUAL_ATTENTION)
    m_BTD = MLP(c.n_embd, name='mlp')(h_BTD)
    h_BTD = add_norm('ln_2', h_BTD, m_BTD, dropout.RESIDUAL_MLP)
    return nn.with_logical_constraint(h_BTD, ('batch', None, None)), None


class GPT(nn.Module):
  """The decoder. Call it for states and the output matrix; see `logits`.

  Attributes:
    config: its shape and numerics.
    unstacked: each block has its own parameters and cache; see `unstacked`.
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
    """Hidden states of the last block, and the matrix that makes logits.

    With `offsets_B` the tokens go on from earlier ones, whose keys and values
    are in the collection 'cache' (none are, the first time): see `decoding`.

    Args:
      tokens_BT: int32, T at most n_ctx.
      dropout_key: uint32 [2], dropout's seed of this update; None: no dropout.
      example_ids_B: uint32, row of the global batch of each sequence (default
        0..B-1); dropout's masks depend on it.
      offsets_B: int32, the position of the first token of each row; offsets_B +
        T is at most n_ctx.
      lengths_B: int32, not needed here: a later token overwrites what stands
        in its place. For the LSTM, which is called alike.

    Returns:
      h_BTD in config.dtype and embed_VD in float32, V = config.token_rows
      (and n_ctx more if softmax_rows is 'all').

    """
    del lengths_B
    c = self.config
    B, T = tokens_BT.shape
    if example_ids_B is None:
      example_ids_B = jnp.arange(B, dtype=jnp.uint32)
    tokens_embed_VD = self.param(
      'tokens_embed',
      nn.with_logical_partitioning(normal_init(), ('vocab', 'embed')),
      (c.token_rows, c.n_embd),
      jnp.float32,
    )
    positions_embed_TD = self.param(
      'positions_embed',
      nn.with_logical_partitioning(normal_init(), (None, 'embed')),
      (c.n_ctx, c.n_embd),
      jnp.float32,
    )
    embedding_site = dropout.site_id(c.n_layer, dropout.EMBEDDING)
    if c.embedding_dropout == 'matrix':
      # One matrix [tokens, specials, positions], as in C: train.py.
      matrix = jnp.concatenate([tokens_embed_VD, positions_embed_TD])
      rows = jnp.arange(matrix.shape[0], dtype=jnp.uint32)
      matrix = dropout.apply(
        matrix,
        dropout.Dropout(c.embd_pdrop, dropout_key, embedding_site, rows),
      )
      tokens_embed_VD = matrix[: c.token_rows]
      positions_embed_TD = matrix[c.token_rows :]
    dtype = jnp.dtype(c.dtype)
    if offsets_B is None:
      positions = positions_embed_TD[:T]
    else:
      positions = positions_embed_TD[offsets_B[:, None] + jnp.arange(T)]
    # Whole rows on every device: each looks up its own part of the batch.
    rows_VD = nn.with_logical_constraint(tokens_embed_VD, ('vocab', None))
    h_BTD = rows_VD[tokens_BT] + positions
    if c.embedding_dropout == 'sum':
      h_BTD = dropout.apply(
        h_BTD,
        dropout.Dropout(
          c.embd_pdrop, dropout_key, embedding_site, example_ids_B
        ),
      )
    h_BTD = nn.with_logical_constraint(
      h_BTD.astype(dtype), ('batch', None, None)
    )
    if self.unstacked:
      for layer in range(c.n_layer):
        block = Block(c, name=f'h{layer}')
        h_BTD, _ = block(
          h_BTD, jnp.uint32(layer), dropout_key, example_ids_B, offsets_B
        )
    elif self._by_layers(offsets_B):
      stack = self.variables['params']['h']
      h_BTD = layers.apply(
        _looped(c), c.unroll, stack, h_BTD, (dropout_key, example_ids_B)
      )
    else:
      numbers = jnp.arange(c.n_layer, dtype=jnp.uint32)
      block = _stack(c)(c, name='h')
      h_BTD, _ = block(h_BTD, numbers, dropout_key, example_ids_B, offsets_B)
    if c.softmax_rows == 'all':
      return h_BTD, jnp.concatenate([tokens_embed_VD, positions_embed_TD])
    return h_BTD, tokens_embed_VD

  def _by_layers(self, offsets_B) -> bool:
    """Whether `layers` loops, and not flax: where it saves memory, a CPU.

    Parameters and a cache come of flax's loop.
    """
    without_cache = offsets_B is None and not self.is_initializing()
    return self.config.looped and without_cache and platform() == 'cpu'


def logits(h_BTD: jax.Array, embed_VD: jax.Array) -> jax.Array:
  """float32 [B, T, V]: the softmax is tied to the embedding, without bias."""
  return einsum('BTD,VD->BTV', h_BTD, embed_VD)


def unstacked(params: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters of a GPT, as one with `unstacked` wants them.

  A block's slice of stacked parameters is copied before it is multiplied, which
  does not count beside a batch, and takes longer than the product of a single
  token: so decoding has them apart.
  """
  stacked, out = params['h'], {k: v for k, v in params.items() if k != 'h'}
  for layer in range(len(stacked['ln_1']['bias'])):
    out[f'h{layer}'] = jax.tree.map(lambda x, n=layer: x[n], stacked)
  return out


def num_parameters(config: GPTConfig) -> int:
  """Parameters of the model: 116,534,784 at the released shapes."""
  D = config.n_embd
  block = 12 * D * D + 13 * D
  return config.n_layer * block + (config.token_rows + config.n_ctx) * D


def flops_per_token(config: GPTConfig) -> float:
  """Model FLOPs a token of an update: forward and backward.

  6 * (12 L D^2 + V D) + 12 L n_ctx D, attention counted in full, embeddings
  looked up for free (REFERENCE §5): 753 MFLOP for GPT-1.
  """
  c = config
  products = 12 * c.n_layer * c.n_embd**2 + c.token_rows * c.n_embd
  return 6.0 * products + 12.0 * c.n_layer * c.n_ctx * c.n_embd


def _layer_norm(name: str, x_BTD: jax.Array) -> jax.Array:
  """Eps 1e-5, statistics in float32 (C: train.py)."""
  axes = ('norm',)
  norm = nn.LayerNorm(
    epsilon=1e-5,
    use_fast_variance=False,
    dtype=jnp.float32,
    scale_init=nn.with_logical_partitioning(nn.initializers.ones, axes),
    bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes),
    name=name,
  )
  return norm(x_BTD).astype(x_BTD.dtype)


def _stack(config: GPTConfig) -> type[nn.Module]:
  """Block, scanned over the layers: their parameters on a leading axis."""
  return nn.scan(
    _remat(config, nn.remat, Block),
    variable_axes={'params': 0, 'cache': 0},
    split_rngs={'params': True},
    in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
    length=config.n_layer,
    unroll=min(config.unroll, config.n_layer),
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )


def _looped(config: GPTConfig) -> layers.Layer:
  """Block as `layers` takes it."""

  def block(params, h_BTD, layer, rest):
    dropout_key, example_ids_B = rest
    return Block(config, parent=None).apply(
      {'params': params}, h_BTD, layer, dropout_key, example_ids_B, None
    )[0]

  return _remat(config, jax.checkpoint, block)


def _remat(config, checkpoint, block):
  """The block, recomputing what config.remat says."""
  remat = config.remat
  if remat == 'auto':
    remat = 'dots' if config.looped else 'none'
  if remat == 'none':
    return block
  policy = None
  if remat == 'dots':
    policy = jax.checkpoint_policies.save_only_these_names(*SAVED)
  # Between two loops nothing is common; in one piece of code all would be.
  return checkpoint(block, policy=policy, prevent_cse=not config.looped)
