"""Prompts → continuations, a token at a time, nothing computed twice.

`prefill` reads the prompts at once and keeps each layer's keys and values (an
LSTM's memory) in the collection 'cache'; `decode` then takes one token of each
row. Rows have lengths of their own: a prompt stands at the left, what follows
it in a batch is never seen. The rule for long texts: when the context of n_ctx
tokens is full, a row goes on from the last half of it, read anew. The cache of
a GPT is as wide as the texts will be, not as the context.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import gpt, models
from gpt1_jax.settings import ModelConfig

_WIDTH = 64  # prompts are padded to a multiple, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a token is drawn; nothing has a default here.

  Attributes:
    greedy: always the likeliest; the others are then unused.
    temperature: above 0, what logits are divided by.
    top_k: among the k likeliest; 0: all.
    top_p: among the fewest tokens whose probabilities reach it (always the
      likeliest), after top_k and temperature; 1: all.
  """

  greedy: bool
  temperature: float
  top_k: int
  top_p: float


def generate(
  params: Any,
  config: ModelConfig,
  prompts: Sequence[Sequence[int]],
  *,
  num_tokens: int,
  num_samples: int,
  seed: int,
  sampling: Sampling,
) -> np.ndarray:
  """Continues prompts.

  Args:
    params: the model's ('gpt' of a checkpoint).
    config: its configuration.
    prompts: P lists of at least one token id; the last n_ctx are seen.
    num_tokens, num_samples: what to make of each.
    seed: the same makes the same; a row does not depend on the others.
    sampling: how.

  Returns:
    int32 [P, num_samples, num_tokens], of the text's vocabulary.
  """
  model = models.new(config)
  n_ctx = config.n_ctx
  params = _computed_in(params, jnp.dtype(config.dtype))
  if config.kind == 'gpt':
    model, params = gpt.GPT(config, unstacked=True), gpt.unstacked(params)
  rows = [list(prompt)[-n_ctx:] for prompt in prompts]
  keys_R = _row_keys(seed, len(rows), num_samples)
  lengths_R = np.repeat([len(row) for row in rows], num_samples)
  cache, h_RD = prefill(model, params, *_padded(rows, n_ctx))
  if num_samples > 1:
    cache, h_RD = jax.tree.map(
      lambda x: jnp.repeat(x, num_samples, axis=0), (cache, h_RD)
    )
  made: list[jax.Array] = []
  texts, read = None, 0  # of each row, where the context was full
  token_R = pick(model, params, h_RD, keys_R, 0, sampling)
  made.append(token_R)
  for step in range(1, num_tokens):
    if lengths_R.max() == n_ctx:
      texts = texts or [row for row in rows for _ in range(num_samples)]
      new = np.stack(jax.device_get(made[read:]), axis=1).tolist()
      texts = [a + b for a, b in zip(texts, new, strict=True)]
      read = len(made)
      half = max(1, n_ctx // 2)
      keep_R = np.where(lengths_R == n_ctx, half, lengths_R + 1)
      texts = [t[-keep:] for t, keep in zip(texts, keep_R, strict=True)]
      lengths_R = keep_R
      cache, h_RD = prefill(model, params, *_padded(texts, n_ctx))
    else:
      last = min(n_ctx, int(lengths_R.max()) + num_tokens - step)
      cache = _with_room(cache, last)
      cache, h_RD = decode(model, params, cache, token_R, jnp.array(lengths_R))
      lengths_R = lengths_R + 1
    token_R = pick(model, params, h_RD, keys_R, step, sampling)
    made.append(token_R)
  out_RT = np.stack(jax.device_get(made), axis=1)
  return out_RT.reshape(len(rows), num_samples, num_tokens)


@functools.partial(jax.jit, static_argnums=0)
def prefill(
  model: models.Model, params: Any, tokens_BT: jax.Array, lengths_B: jax.Array
) -> tuple[Any, jax.Array]:
  """Reads the first `lengths_B` of the tokens of each row.

  Returns:
    The cache, and the state [B, D] of the last token read.
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
  """Takes one more token of each row, at the positions `offsets_B`.

  Returns:
    The cache, and the state [B, D] of the token.
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


@functools.partial(jax.jit, static_argnums=(0, 5))
def pick(
  model: models.Model,
  params: Any,
  h_BD: jax.Array,
  keys_B: jax.Array,
  step: jax.Array | int,
  sampling: Sampling,
) -> jax.Array:
  """int32 [B]: one token of each row, drawn from its state."""
  # Of all rows, and then cut: cut before, the matrix would be copied.
  logits_BV = gpt.logits(h_BD[:, None], params['tokens_embed'])[:, 0]
  logits_BV = logits_BV[:, : model.config.vocab_size]
  if sampling.greedy:
    return logits_BV.argmax(axis=-1).astype(jnp.int32)
  logits_BV = kept_logits(logits_BV, sampling)
  keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
  return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def kept_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
  """Logits to draw from: divided by the temperature, -inf where left out."""
  logits_BV = logits_BV / sampling.temperature
  if sampling.top_k:
    k = min(sampling.top_k, logits_BV.shape[-1])
    least_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
  if sampling.top_p < 1.0:
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    kept_BV = jnp.where(before_BV < sampling.top_p, sorted_BV, jnp.inf)
    least_B1 = kept_BV.min(axis=-1, keepdims=True)
    logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
  return logits_BV


def _computed_in(params: Any, dtype: jnp.dtype) -> Any:
  """The matrices of the layers in the type of the computation, cast once."""

  def cast(path, x):
    kernel = path[-1].key == 'kernel'
    return jnp.asarray(x, dtype if kernel else jnp.float32)

  return jax.tree_util.tree_map_with_path(cast, params)


def _row_keys(seed: int, num_prompts: int, num_samples: int) -> jax.Array:
  """A key for each row: of the prompt's and of the sample's number."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  keys_P = fold(jax.random.key(seed), jnp.arange(num_prompts))
  keys_PS = jax.vmap(fold, (0, None))(keys_P, jnp.arange(num_samples))
  return keys_PS.ravel()


def _padded(
  rows: Sequence[Sequence[int]], n_ctx: int
) -> tuple[np.ndarray, np.ndarray]:
  """int32 [B, T], zeros after each row, and the lengths int32 [B]."""
  lengths_B = np.array([len(row) for row in rows], np.int32)
  width = min(n_ctx, -(-int(lengths_B.max()) // _WIDTH) * _WIDTH)
  tokens_BT = np.zeros((len(rows), width), np.int32)
  for tokens_T, row in zip(tokens_BT, rows, strict=True):
    tokens_T[: len(row)] = row
  return tokens_BT, lengths_B


def _with_room(cache: Any, positions: int) -> Any:
  """The cache, with room for that many positions of each row.

  Keys and values [B, S, H, K] are made wider by a multiple; an LSTM's memory
  has no positions.
  """

  def widen(x: jax.Array) -> jax.Array:
    missing = -(-(positions - x.shape[1]) // _WIDTH) * _WIDTH
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))

  def short(x: jax.Array) -> bool:
    return x.ndim == 4 and x.shape[1] < positions

  return jax.tree.map(lambda x: widen(x) if short(x) else x, cache)
