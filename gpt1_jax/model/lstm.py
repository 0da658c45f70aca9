"""The LSTM that GPT-1 is compared with: one layer of 2,048 units (P §5).

It stands where the GPT stands, "using the same framework" (P §5, Table 5):
same text, loss, heads and optimiser. The paper gives no more than the layer
and its units; the rest is taken from the GPT, as plainly as it goes: an
embedding of the GPT's width, a projection of the units to that width, the
softmax tied to the embedding, dropout on what enters and leaves the layer (not
within the recurrence, which is what the GPT's residual dropout comes to).
Letters as in `gpt`, and U units. There are no positions to embed.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import dropout
from gpt1_jax.model.linear import Linear, normal_init
from gpt1_jax.settings import LSTMConfig


class LSTM(nn.Module):
  """Called as `gpt.GPT` is: for states and the output matrix."""

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
    """Projected states of the layer, and the matrix that makes logits.

    With `offsets_B` the tokens go on from earlier ones, after which the memory
    of the layer is in the collection 'cache': see `decoding`.

    Args:
      tokens_BT: int32.
      dropout_key: uint32 [2], dropout's seed of this update; None: no dropout.
      example_ids_B: uint32, row of the global batch of each sequence (default
        0..B-1); dropout's masks depend on it.
      offsets_B: int32, 0 where a row begins; there are no positions here.
      lengths_B: int32, how many of its T tokens each row has, with `offsets_B`;
        what follows them is not remembered.

    Returns:
      h_BTD in config.dtype and embed_VD in float32, V = config.token_rows.
    """
    c = self.config
    dtype = jnp.dtype(c.dtype)
    if example_ids_B is None:
      example_ids_B = jnp.arange(tokens_BT.shape[0], dtype=jnp.uint32)

    def drop(x_BTX, rate, site):
      site = dropout.site_id(0, site)
      return dropout.apply(
        x_BTX, dropout.Dropout(rate, dropout_key, site, example_ids_B)
      )

    tokens_embed_VD = self.param(
      'tokens_embed',
      nn.with_logical_partitioning(normal_init(), ('vocab', 'embed')),
      (c.token_rows, c.n_embd),
      jnp.float32,
    )
    # Whole rows on every device: each looks up its own part of the batch.
    rows_VD = nn.with_logical_constraint(tokens_embed_VD, ('vocab', None))
    x_BTD = rows_VD[tokens_BT]
    x_BTD = drop(x_BTD, c.embd_pdrop, dropout.EMBEDDING).astype(dtype)
    x_BTD = nn.with_logical_constraint(x_BTD, ('batch', None, None))
    cell = nn.OptimizedLSTMCell(
      c.units,
      # N(0, 0.02) is the paper's because of LayerNorm (P §4.1), which is not
      # here: the cell's weights start as is usual for it.
      kernel_init=nn.with_logical_partitioning(
        nn.initializers.lecun_normal(), ('embed', 'mlp')
      ),
      recurrent_kernel_init=nn.with_logical_partitioning(
        nn.initializers.orthogonal(), (None, 'mlp')
      ),
      bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ('mlp',)),
      dtype=dtype,
      name='lstm',
    )
    if offsets_B is None:
      u_BTU = nn.RNN(cell)(x_BTD).astype(dtype)
    else:
      u_BTU = self._go_on(cell, x_BTD, lengths_B).astype(dtype)
    u_BTU = nn.with_logical_constraint(u_BTU, ('batch', None, 'mlp'))
    u_BTU = drop(u_BTU, c.output_pdrop, dropout.LSTM_OUTPUT)
    h_BTD = Linear(
      'BTU,UD->BTD', (c.units, c.n_embd), ('mlp', 'embed'), name='c_proj'
    )(u_BTU)
    h_BTD = nn.with_logical_constraint(h_BTD, ('batch', None, None))
    return h_BTD, tokens_embed_VD

  def _go_on(
    self, cell: nn.OptimizedLSTMCell, x_BTD: jax.Array, lengths_B: jax.Array
  ) -> jax.Array:
    """[B, T, U] after what is remembered; remembers."""
    kept = self.variable(
      'cache',
      'memory',
      lambda: cell.initialize_carry(jax.random.key(0), x_BTD[:, 0].shape),
    )
    kept.value, u_BTU = nn.RNN(cell, return_carry=True)(
      x_BTD, initial_carry=kept.value, seq_lengths=lengths_B
    )
    return u_BTU


def num_parameters(config: LSTMConfig) -> int:
  """Parameters of the model: gates, projection, embedding."""
  D, U = config.n_embd, config.units
  return 4 * U * (D + U + 1) + (U + 1) * D + config.token_rows * D


def flops_per_token(config: LSTMConfig) -> float:
  """Model FLOPs a token of an update: 6 * (4 U (D + U) + U D + V D)."""
  D, U = config.n_embd, config.units
  return 6.0 * (4 * U * (D + U) + U * D + config.token_rows * D)
