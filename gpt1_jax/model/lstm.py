"""Defines the LSTM that the paper compares GPT-1 with (P §5, Table 5).

It replaces the GPT "using the same framework": same text, loss, heads and
optimiser. The paper gives one layer of 2,048 units. The rest follows the GPT as
plainly as possible: an embedding of its width, a projection of the units to
that width, the tied softmax, and dropout on the input and the output of the
layer (not within the recurrence: the GPT's residual dropout acts between layers
too). Letters as in `gpt`, and U units. There are no position embeddings.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import Linear, weight
from gpt1_jax.settings import LSTMConfig


class LSTM(nn.Module):
  """One recurrent layer, with the interface of `gpt.GPT`."""

  config: LSTMConfig

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
    """Returns the layer's projected states and the output matrix.

    With `offsets_B` the tokens continue earlier ones; the cell state after
    those is in the collection 'cache'; see `decoding`.

    Args:
      tokens_BT: int32.
      dropout_key, example_ids_B: as for `gpt.GPT`.
      offsets_B: int32, 0 where a row begins; only its presence matters here.
      lengths_B: int32, tokens of each row, given with `offsets_B`; the tokens
        after them do not enter the cell state.

    Returns:
      h_BTD in config.dtype, and the output matrix embed_VD in float32, where V
      is config.token_rows.
    """
    c = self.config
    dtype = jnp.dtype(c.dtype)
    if example_ids_B is None:
      example_ids_B = jnp.arange(tokens_BT.shape[0], dtype=jnp.uint32)

    def drop(x: jax.Array, rate: float, site: int) -> jax.Array:
      site_id = dropout.site_id(0, site)
      return dropout.apply(
        x, dropout.Dropout(rate, dropout_key, site_id, example_ids_B)
      )

    embed_VD = weight(
      self, 'tokens_embed', (c.token_rows, c.n_embd), ('vocab', 'embed')
    )
    # Whole rows on every device: each looks up its own part of the batch.
    rows_VD = nn.with_logical_constraint(embed_VD, ('vocab', None))
    x_BTD = drop(rows_VD[tokens_BT], c.embd_pdrop, dropout.EMBEDDING)
    x_BTD = nn.with_logical_constraint(
      x_BTD.astype(dtype), ('batch', None, None)
    )
    cell = _cell(c)
    if offsets_B is None:
      u_BTU = jnp.asarray(nn.RNN(cell)(x_BTD), dtype)
    else:
      u_BTU = self._continue(cell, x_BTD, lengths_B).astype(dtype)
    u_BTU = nn.with_logical_constraint(u_BTU, ('batch', None, 'mlp'))
    u_BTU = drop(u_BTU, c.output_pdrop, dropout.LSTM_OUTPUT)
    h_BTD = Linear(
      'BTU,UD->BTD', (c.units, c.n_embd), ('mlp', 'embed'), name='c_proj'
    )(u_BTU)
    return nn.with_logical_constraint(h_BTD, ('batch', None, None)), embed_VD

  def _continue(
    self,
    cell: nn.OptimizedLSTMCell,
    x_BTD: jax.Array,
    lengths_B: jax.Array | None,
  ) -> jax.Array:
    """Runs the cell from the cached state, [B, T, U], and updates the cache."""
    shape = x_BTD[:, 0].shape
    cache = self.variable(
      'cache', 'memory', cell.initialize_carry, jax.random.key(0), shape
    )
    cache.value, u_BTU = nn.RNN(cell, return_carry=True)(
      x_BTD, initial_carry=cache.value, seq_lengths=lengths_B
    )
    return u_BTU


def _cell(config: LSTMConfig) -> nn.OptimizedLSTMCell:
  # N(0, 0.02) suits a network with LayerNorm (P §4.1). This one has none, so
  # the cell's weights start as is usual for an LSTM.
  init, along = nn.initializers, nn.with_logical_partitioning
  return nn.OptimizedLSTMCell(
    config.units,
    kernel_init=along(init.lecun_normal(), ('embed', 'mlp')),
    recurrent_kernel_init=along(init.orthogonal(), (None, 'mlp')),
    bias_init=along(init.zeros, ('mlp',)),
    dtype=jnp.dtype(config.dtype),
    name='lstm',
  )


def num_parameters(config: LSTMConfig) -> int:
  """Returns the number of parameters: gates, projection, embedding."""
  D, U = config.n_embd, config.units
  return 4 * U * (D + U + 1) + (U + 1) * D + config.token_rows * D


def flops_per_token(config: LSTMConfig) -> float:
  """Returns model FLOPs for each token of an update, forward and backward.

  6 * (4 U (D + U) + U D + V D).
  """
  D, U = config.n_embd, config.units
  return 6.0 * (4 * U * (D + U) + U * D + config.token_rows * D)
