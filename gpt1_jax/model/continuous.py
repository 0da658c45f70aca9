"""Generates texts in one batch that they can join and leave at any time.

`Decoder.step` adds one token to each text it is given. Texts that were in the
step before continue from the cache; the others are read as prompts. When a text
fills the context of n_ctx tokens, its last half is read again as a prompt. The
tokens of a text do not depend on what else is in the batch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.model import decoding, models, sampling

ALTERNATIVES = 5  # number of likeliest tokens to report with each token


class Token(NamedTuple):
  """One token of a text.

  Attributes:
    id: the token.
    log_prob: log p(token | tokens before), in nats, before temperature and
      truncation.
    top: the most likely tokens with their log-probabilities, best first.
  """

  id: int
  log_prob: float
  top: tuple[tuple[int, float], ...]


@dataclasses.dataclass(eq=False)
class Text:
  """A text that grows by one token per step.

  Attributes:
    ids: all tokens; at least one, the prompt.
    how: rules for choosing a token.
    seed, prompt, sample: random seed, and numbers of prompt and sample; the
      choices depend on these three and not on the other texts.
    room: expected final length in tokens, which sizes the cache. A
      longer text makes the cache grow, and each new width is compiled.
    made: number of tokens chosen so far.
    read: number of context tokens in the cache; excludes the last one.
  """

  ids: list[int]
  how: sampling.Sampling
  seed: int
  prompt: int = 0
  sample: int = 0
  room: int = 0
  made: int = 0
  read: int = 0

  def __post_init__(self) -> None:
    key = jax.random.fold_in(jax.random.key(self.seed), self.prompt)
    key = jax.random.fold_in(key, self.sample)
    self.key = np.asarray(jax.random.key_data(key))


class Decoder:
  """Holds the cache of the texts in the batch."""

  def __init__(self, model: models.Model, params: Any):
    """Takes a network and its parameters from `decoding.prepared`."""
    self._model, self._params = model, params
    self._n_ctx = model.config.n_ctx
    self._rows: dict[Text, int] = {}  # positions in the cache
    self._cache: Any = None

  def step(self, texts: Sequence[Text]) -> list[Token]:
    """Chooses the next token of each text and appends it to `Text.ids`."""
    held: list[Text] = []
    fresh: list[Text] = []
    for text in texts:
      continues = text in self._rows and text.read < self._n_ctx
      (held if continues else fresh).append(text)
    parts = []
    if held:
      parts.append(self._decode(held))
    if fresh:
      parts.append(self._prefill(fresh))
    cache, h_BD = parts[0]
    if len(parts) > 1:
      first = len(h_BD)  # row of the first fresh text
      rows = [*range(len(held)), *range(first, first + len(fresh))]
      cache, h_BD = _joined(*parts, _padded(rows))
    order = [*held, *fresh]
    self._cache = cache
    self._rows = {text: row for row, text in enumerate(order)}
    made = dict(zip(order, self._choose(order, h_BD), strict=True))
    for text, token in made.items():
      text.ids.append(token.id)
      text.made += 1
    return [made[text] for text in texts]

  def _decode(self, texts: list[Text]) -> tuple[Any, jax.Array]:
    """Feeds the network the last token of each text in the cache."""
    cache = self._cache
    if texts != list(self._rows):
      cache = _taken(cache, _padded([self._rows[text] for text in texts]))
    count = _bucket(len(texts))
    token_B, offsets_B = np.zeros((2, count), np.int32)
    token_B[: len(texts)] = [text.ids[-1] for text in texts]
    offsets_B[: len(texts)] = [text.read for text in texts]
    for text in texts:
      text.read += 1
    cache = self._with_room(cache, texts)
    return decoding.decode(self._model, self._params, cache, token_B, offsets_B)

  def _prefill(self, texts: list[Text]) -> tuple[Any, jax.Array]:
    """Reads new texts, up to n_ctx tokens, and the last half of full ones."""
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
    return self._with_room(cache, texts), h_BD

  def _with_room(self, cache: Any, texts: list[Text]) -> Any:
    """Returns the cache, padded for the tokens that were or will be read."""
    longest = max(max(text.room, text.read) for text in texts)
    positions = decoding.width(longest, self._n_ctx)
    return jax.tree.map(lambda x: decoding.widened(x, positions), cache)

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
  """Returns the chosen tokens and log p [B], and the k most likely [B, k]."""
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
  """Selects rows of two batches; indices of the second follow the first's."""

  def join(a: jax.Array, b: jax.Array) -> jax.Array:
    a = decoding.widened(a, b.shape[1])
    b = decoding.widened(b, a.shape[1])
    return jnp.concatenate([a, b])[rows_B]

  return jax.tree.map(join, old, new)


def _padded(numbers: Sequence[int]) -> np.ndarray:
  """Pads a list to a power of two in length by repeating its first number."""
  padding = [numbers[0]] * (_bucket(len(numbers)) - len(numbers))
  return np.array([*numbers, *padding], np.int32)


def _bucket(count: int) -> int:
  """Rounds up to a power of two, so that few batch sizes are compiled."""
  return 1 << (count - 1).bit_length()
