"""Generates many texts in one batch that texts may join and leave at any time.

`Decoder.step` adds one token to each text it is given. Texts that were in the
step before continue from the cache; the others are read as prompts. The tokens
of a text are those of `decoding.generate`, whatever else is in the batch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import decoding, models, sampling

ALTERNATIVES = 5  # likeliest tokens that come with each token


class Token(NamedTuple):
  """One token of a text.

  Attributes:
    id: the token.
    log_prob: log p(token | tokens before), in nats, before temperature and
      truncation.
    top: the likeliest tokens with their log-probabilities, best first.
  """

  id: int
  log_prob: float
  top: tuple[tuple[int, float], ...]


@dataclasses.dataclass(eq=False)
class Text:
  """A text that grows by one token a step.

  Attributes:
    ids: all tokens; at least one, the prompt.
    how: how to choose a token.
    seed, prompt, sample: seed the choices; see `decoding.Request`.
    made: tokens chosen so far.
    read: tokens of the context in the cache, the last one excluded.
  """

  ids: list[int]
  how: sampling.Sampling
  seed: int
  prompt: int = 0
  sample: int = 0
  made: int = 0
  read: int = 0

  def __post_init__(self) -> None:
    key = decoding.row_key(self.seed, self.prompt, self.sample)
    self.key = np.asarray(jax.random.key_data(key))


class Decoder:
  """Holds the cache of the texts in the batch."""

  def __init__(self, model: models.Model, params: Any):
    """Takes a network and its parameters from `decoding.prepared`."""
    self._model, self._params = model, params
    self._n_ctx = model.config.n_ctx
    self._held: list[Text] = []
    self._cache: Any = None

  def step(self, texts: Sequence[Text]) -> list[Token]:
    """Chooses the next token of each text and appends it to `Text.ids`."""
    held = [text for text in texts if self._continues(text)]
    fresh = [text for text in texts if not self._continues(text)]
    parts = []
    if held:
      parts.append(self._decode(held))
    if fresh:
      parts.append(self._prefill(fresh))
    order = [*held, *fresh]
    cache, h_BD = parts[0]
    if len(parts) > 1:
      sizes = [len(held), len(fresh)]
      starts = [0, parts[0][1].shape[0]]
      rows_B = _rows(
        [s + i for s, n in zip(starts, sizes, strict=True) for i in range(n)]
      )
      cache, h_BD = _joined(*parts, rows_B)
    self._cache, self._held = cache, order
    tokens = self._choose(order, h_BD)
    for text, token in zip(order, tokens, strict=True):
      text.ids.append(token.id)
      text.made += 1
    made = {id(text): token for text, token in zip(order, tokens, strict=True)}
    return [made[id(text)] for text in texts]

  def _continues(self, text: Text) -> bool:
    return text in self._held and text.read < self._n_ctx

  def _decode(self, texts: list[Text]) -> tuple[Any, jax.Array]:
    cache = self._cache
    if texts != self._held:
      cache = _taken(cache, _rows([self._held.index(text) for text in texts]))
    count = _bucket(len(texts))
    token_B, offsets_B = np.zeros((2, count), np.int32)
    token_B[: len(texts)] = [text.ids[-1] for text in texts]
    offsets_B[: len(texts)] = [text.read for text in texts]
    for text in texts:
      text.read += 1
    return decoding.decode(self._model, self._params, cache, token_B, offsets_B)

  def _prefill(self, texts: list[Text]) -> tuple[Any, jax.Array]:
    """Reads the last n_ctx tokens; of a text that was full, the last half."""
    rows = []
    for text in texts:
      half = max(1, self._n_ctx // 2)
      rows.append(text.ids[-(half if text.read else self._n_ctx) :])
      text.read = len(rows[-1])
    rows += [[0]] * (_bucket(len(rows)) - len(rows))
    tokens_BT, lengths_B = decoding.padded(rows, self._n_ctx)
    cache, h_BD = decoding.prefill(
      self._model, self._params, tokens_BT, lengths_B
    )
    return decoding.with_room(cache, self._n_ctx), h_BD

  def _choose(self, texts: list[Text], h_BD: jax.Array) -> list[Token]:
    padding = [texts[0]] * (len(h_BD) - len(texts))
    rows = [*texts, *padding]
    keys_B = np.stack([text.key for text in rows])
    steps_B = np.array([text.made for text in rows], np.int32)
    rules = sampling.stack_rules([text.how for text in rows])
    found = jax.device_get(
      _pick(self._model, self._params, h_BD, keys_B, steps_B, rules)
    )
    out = []
    for i in range(len(texts)):
      id_, log_prob, top, top_ids = (x[i].tolist() for x in found)
      out.append(Token(id_, log_prob, tuple(zip(top_ids, top, strict=True))))
    return out


@functools.partial(jax.jit, static_argnums=0)
def _pick(
  model: models.Model,
  params: Any,
  h_BD: jax.Array,
  keys_B2: jax.Array,
  steps_B: jax.Array,
  rules: sampling.Rules,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns the tokens [B], their log p, and the likeliest [B, k] likewise."""
  logits_BV = sampling.next_logits(model.config, params, h_BD)
  keys_B = jax.random.wrap_key_data(keys_B2)
  token_B = sampling.choose(logits_BV, keys_B, steps_B, rules)
  log_probs_BV = jax.nn.log_softmax(logits_BV)
  log_prob_B1 = jnp.take_along_axis(log_probs_BV, token_B[:, None], axis=1)
  k = min(ALTERNATIVES, logits_BV.shape[1])
  top_Bk, ids_Bk = jax.lax.top_k(log_probs_BV, k)
  return token_B, log_prob_B1[:, 0], top_Bk, ids_Bk


@jax.jit
def _taken(cache: Any, rows_B: jax.Array) -> Any:
  return jax.tree.map(lambda x: x[rows_B], cache)


@jax.jit
def _joined(old: Any, new: Any, rows_B: jax.Array) -> Any:
  """Returns rows of two batches, numbered through both."""
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a, b])[rows_B], tuple(old), tuple(new)
  )


def _rows(numbers: Sequence[int]) -> np.ndarray:
  """Returns the numbers, padded with the first to a power of two."""
  padding = [numbers[0]] * (_bucket(len(numbers)) - len(numbers))
  return np.array([*numbers, *padding], np.int32)


def _bucket(count: int) -> int:
  """Returns the power of two at or above: few batch sizes are compiled."""
  return 1 << (count - 1).bit_length()
