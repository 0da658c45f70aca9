"""Generates continuations of prompts with a cache, one token at a time.

`prefill` reads whole prompts and stores the keys and values of each layer (for
an LSTM, its state) in the collection 'cache'; `decode` then takes one token per
row. Rows may differ in length: prompts are left-aligned, and padding is masked.
When a row fills the context of n_ctx tokens, its last half is read again as a
new prompt. The cache of a GPT is as wide as the texts, not as n_ctx.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import gpt, models, sampling
from gpt1_jax.settings import ModelConfig

_WIDTH = 64  # pads prompts and caches to a multiple; few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Request:
  """Number and seed of the samples.

  Attributes:
    num_tokens: tokens per sample.
    num_samples: samples per prompt.
    seed: random seed. The samples of a prompt depend on the seed and on the
      numbers of prompt and sample, not on the other rows.
  """

  num_tokens: int
  num_samples: int
  seed: int


def generate(
  params: Any,
  config: ModelConfig,
  prompts: Sequence[Sequence[int]],
  request: Request,
  how: sampling.Sampling,
) -> np.ndarray:
  """Continues prompts; returns int32 [P, num_samples, num_tokens].

  Args:
    params: parameters of the model ('gpt' in a checkpoint).
    config: configuration of the model.
    prompts: P lists of at least one token id; only the last n_ctx are read.
    request, how: how much to generate, and how to choose each token.
  """
  num_tokens, num_samples = request.num_tokens, request.num_samples
  n_ctx = config.n_ctx
  model, params = prepared(params, config)
  rows = [list(prompt)[-n_ctx:] for prompt in prompts]
  keys_R = _row_keys(request.seed, len(rows), num_samples)
  rules = sampling.stack_rules([how] * len(keys_R))
  lengths_R = np.repeat([len(row) for row in rows], num_samples)
  cache, h_RD = prefill(model, params, *padded(rows, n_ctx))
  if num_samples > 1:
    cache, h_RD = jax.tree.map(
      lambda x: jnp.repeat(x, num_samples, axis=0), (cache, h_RD)
    )
  token_R = pick(model, params, h_RD, keys_R, 0, rules)
  made = [token_R]
  # Token ids of each row, fetched when a context is first full; the first
  # `num_read` of `made` are in them.
  texts: list[list[int]] = []
  num_read = 0
  for step in range(1, num_tokens):
    if lengths_R.max() == n_ctx:
      texts = texts or [row for row in rows for _ in range(num_samples)]
      new = np.stack(jax.device_get(made[num_read:]), axis=1).tolist()
      texts = [a + b for a, b in zip(texts, new, strict=True)]
      num_read = len(made)
      half = max(1, n_ctx // 2)
      keep_R = np.where(lengths_R == n_ctx, half, lengths_R + 1)
      texts = [t[-keep:] for t, keep in zip(texts, keep_R, strict=True)]
      lengths_R = keep_R
      cache, h_RD = prefill(model, params, *padded(texts, n_ctx))
    else:
      last = min(n_ctx, int(lengths_R.max()) + num_tokens - step)
      cache = with_room(cache, last)
      cache, h_RD = decode(model, params, cache, token_R, jnp.array(lengths_R))
      lengths_R = lengths_R + 1
    token_R = pick(model, params, h_RD, keys_R, step, rules)
    made.append(token_R)
  out_RT = np.stack(jax.device_get(made), axis=1)
  return out_RT.reshape(len(rows), num_samples, num_tokens)


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


@functools.partial(jax.jit, static_argnums=0)
def pick(
  model: models.Model,
  params: Any,
  h_BD: jax.Array,
  keys_B: jax.Array,
  step: jax.Array | int,
  rules: sampling.Rules,
) -> jax.Array:
  """Returns int32 [B]: the next token of each row, given its hidden state."""
  logits_BV = sampling.next_logits(model.config, params, h_BD)
  return sampling.choose(logits_BV, keys_B, step, rules)


def prepared(params: Any, config: ModelConfig) -> tuple[models.Model, Any]:
  """Returns the network and its parameters as `prefill` and `decode` run best.

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


def row_key(seed: int, prompt: int = 0, sample: int = 0) -> jax.Array:
  """Returns the key of one sample; see `Request`."""
  key = jax.random.fold_in(jax.random.key(seed), prompt)
  return jax.random.fold_in(key, sample)


def _row_keys(seed: int, num_prompts: int, num_samples: int) -> jax.Array:
  """Returns keys [P * S], folded from the numbers of prompt and sample."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  keys_P = fold(jax.random.key(seed), jnp.arange(num_prompts))
  keys_PS = jax.vmap(fold, (0, None))(keys_P, jnp.arange(num_samples))
  return keys_PS.ravel()


def padded(
  rows: Sequence[Sequence[int]], n_ctx: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns zero-padded tokens int32 [B, T] and lengths int32 [B]."""
  lengths_B = np.array([len(row) for row in rows], np.int32)
  width = min(n_ctx, -(-int(lengths_B.max()) // _WIDTH) * _WIDTH)
  tokens_BT = np.zeros((len(rows), width), np.int32)
  for tokens_T, row in zip(tokens_BT, rows, strict=True):
    tokens_T[: len(row)] = row
  return tokens_BT, lengths_B


def with_room(cache: Any, positions: int) -> Any:
  """Returns the cache, padded to hold that many positions per row.

  Keys and values [B, S, H, K] grow by multiples of `_WIDTH`; the state of an
  LSTM has no positions.
  """

  def widen(x: jax.Array) -> jax.Array:
    missing = -(-(positions - x.shape[1]) // _WIDTH) * _WIDTH
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))

  def short(x: jax.Array) -> bool:
    return x.ndim == 4 and x.shape[1] < positions

  return jax.tree.map(lambda x: widen(x) if short(x) else x, cache)
