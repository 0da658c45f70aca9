"""Generates continuations of prompts with a cache, one token at a time.

`prefill` reads whole prompts and stores the keys and values of each layer (for
an LSTM, its state) in the collection 'cache'; `decode` then takes one token per
row. Rows may differ in length: prompts are left-aligned, and padding is masked.
`continuous` generates texts with them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import gpt, models
from gpt1_jax.settings import ModelConfig

# Prompts and caches are padded to a multiple, so that few shapes are compiled.
_WIDTH = 64


@functools.partial(jax.jit, static_argnums=0)
def prefill(
  model: models.Model, params: Any, tokens_BT: jax.Array, lengths_B: jax.Array
) -> tuple[Any, jax.Array]:
  """Reads left-aligned prompts of `lengths_B` tokens.

  Returns:
    The cache, and the final hidden state [B, D] of the last token of each row.
  """
  (h_BTD, _), kept = model.apply(
    {'params': params},
    tokens_BT,
    dropout_key=None,
    offsets_B=jnp.zeros_like(lengths_B),
    lengths_B=lengths_B,
    mutable=['cache'],
  )
  last_B = lengths_B[:, None, None] - 1
  return kept['cache'], jnp.take_along_axis(h_BTD, last_B, axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def decode(
  model: models.Model,
  params: Any,
  cache: Any,
  token_B: jax.Array,
  offsets_B: jax.Array,
) -> tuple[Any, jax.Array]:
  """Reads one more token of each row, at position `offsets_B`.

  Returns:
    The donated cache, extended, and the final hidden state [B, D] of the token.
  """
  (h_BTD, _), kept = model.apply(
    {'params': params, 'cache': cache},
    token_B[:, None],
    dropout_key=None,
    offsets_B=offsets_B,
    lengths_B=jnp.ones_like(offsets_B),
    mutable=['cache'],
  )
  return kept['cache'], h_BTD[:, 0]


def prepared(params: Any, config: ModelConfig) -> tuple[models.Model, Any]:
  """Returns the network and its parameters in the form fastest to decode with.

  Kernels have the dtype of the computation, the rest is float32, and the blocks
  of a GPT are unstacked. Arrays are placed on the device.
  """

  def cast(path: tuple[Any, ...], x: Any) -> jax.Array:
    kernel = path[-1].key == 'kernel'
    return jnp.asarray(x, jnp.dtype(config.dtype) if kernel else jnp.float32)

  params = jax.tree_util.tree_map_with_path(cast, params)
  if config.kind == 'gpt':
    return gpt.GPT(config, unstacked=True), gpt.unstack_params(params)
  return models.new(config), params


def padded(
  rows: Sequence[Sequence[int]], n_ctx: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns zero-padded tokens int32 [B, T] and lengths int32 [B]."""
  lengths_B = np.array([len(row) for row in rows], np.int32)
  T = width(int(lengths_B.max()), n_ctx)
  tokens_BT = np.zeros((len(rows), T), np.int32)
  for tokens_T, row in zip(tokens_BT, rows, strict=True):
    tokens_T[: len(row)] = row
  return tokens_BT, lengths_B


def width(positions: int, n_ctx: int) -> int:
  """Rounds a number of positions up, so that few shapes are compiled."""
  return min(n_ctx, -(-positions // _WIDTH) * _WIDTH)


def widened(x: jax.Array, positions: int) -> jax.Array:
  """Pads keys or values [B, S, H, K] to at least `positions` along S.

  Returns other arrays, such as the state of an LSTM, as they are.
  """
  if x.ndim != 4 or x.shape[1] >= positions:
    return x
  missing = positions - x.shape[1]
  return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))
