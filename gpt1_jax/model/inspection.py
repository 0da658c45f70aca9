"""Computes hidden states, attention and log-probabilities of whole texts.

Networks and parameters are those of `decoding.prepared`. Padding after a text
does not affect it: attention is causal.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from gpt1_jax.model import gpt, models


class Predictions(NamedTuple):
  """Log-probabilities at each position, given the tokens before it.

  Attributes:
    log_probs_BT: log p of the tokens in nats; 0 at the first.
    top_BTk: the k largest log-probabilities at each position, best first; those
      at t are for token t, and those at 0 are meaningless.
    top_ids_BTk: int32, their tokens.
  """

  log_probs_BT: jax.Array
  top_BTk: jax.Array
  top_ids_BTk: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def logits(model: models.Model, params: Any, tokens_BT: jax.Array) -> jax.Array:
  """Returns float32 [B, T, V]: at t, the logits of the token after t."""
  h_BTD, embed_VD = _apply(model, params, tokens_BT)
  return gpt.logits(h_BTD, embed_VD)[..., : model.config.vocab_size]


@functools.partial(jax.jit, static_argnums=(0, 3))
def predictions(
  model: models.Model, params: Any, tokens_BT: jax.Array, k: int
) -> Predictions:
  """Returns log p of each token and the most likely tokens at its position.

  The softmax covers the vocabulary alone, as in sampling. Computes the logits
  one text at a time.
  """
  h_BTD, embed_VD = _apply(model, params, tokens_BT)
  V = model.config.vocab_size

  def one(row: tuple[jax.Array, jax.Array]) -> Predictions:
    h_TD, tokens_T = row
    logits_TV = gpt.logits(h_TD[None], embed_VD)[0, :, :V]
    log_probs_TV = jax.nn.log_softmax(logits_TV)
    # The state at t - 1 predicts the token at t.
    targets_T = jnp.roll(tokens_T, -1)[:, None]
    found_T = jnp.take_along_axis(log_probs_TV, targets_T, axis=1)[:, 0]
    top_Tk, ids_Tk = jax.lax.top_k(log_probs_TV, min(k, V))
    found = Predictions(found_T, top_Tk, ids_Tk)
    found = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), found)
    return found._replace(log_probs_BT=found.log_probs_BT.at[0].set(0.0))

  return jax.lax.map(one, (h_BTD, tokens_BT))


@functools.partial(jax.jit, static_argnums=0)
def hidden_states(
  model: models.Model, params: Any, tokens_BT: jax.Array
) -> jax.Array:
  """Returns [L + 1, B, T, D]: the embedding and the output of each block."""

  def wanted(module: nn.Module, method: str) -> bool:
    return isinstance(module, gpt.Block) or method == '_embed'

  _, kept = model.apply(
    {'params': params},
    tokens_BT,
    dropout_key=None,
    capture_intermediates=wanted,
    mutable=['intermediates'],
  )
  found = kept['intermediates']
  blocks = [
    found[f'h{layer}']['__call__'][0][0]
    for layer in range(model.config.n_layer)
  ]
  return jnp.stack([found['_embed'][0], *blocks])


@functools.partial(jax.jit, static_argnums=0)
def attentions(
  model: models.Model, params: Any, tokens_BT: jax.Array
) -> jax.Array:
  """Returns float32 [L, B, H, T, T]: the weight of each key for each query."""
  _, kept = model.apply(
    {'params': params}, tokens_BT, dropout_key=None, mutable=['intermediates']
  )
  found = kept['intermediates']
  return jnp.stack(
    [
      found[f'h{layer}']['attn']['probabilities'][0]
      for layer in range(model.config.n_layer)
    ]
  )


def _apply(
  model: models.Model, params: Any, tokens_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
  out: Any = model.apply({'params': params}, tokens_BT, dropout_key=None)
  return out
