"""Holds what both tokenizers share: special rows and a cache of words."""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NotRequired, cast

from typing_extensions import TypedDict

from gpt1_jax import storage
from gpt1_jax.errors import UserError

# Rows that follow any vocabulary (P §3.3); no text encodes to them.
SPECIALS = ('<start>', '<delimiter>', '<extract>')
NUM_SPECIALS = len(SPECIALS)
# Their spelling in a tokenizer.json. Cleaning puts spaces around `|`, so no
# piece of a text is spelled like this.
SPECIAL_PIECES = ('<|start|>', '<|delimiter|>', '<|extract|>')
MAX_ROWS = 2**16 - NUM_SPECIALS  # tokens are stored as uint16

CACHED_WORDS = 1 << 18  # words to encode before a cache is renewed: < 100 MB
_CACHED_LENGTH = 32  # longer words are not remembered
_DESCRIBED = (
  *('kind', 'fingerprint', 'vocab_size', 'merges'),
  *('unknown_id', 'document_id', 'newline_id'),
)


class TokenizerDescription(TypedDict):
  """The `tokenizer` section of meta.json."""

  kind: str
  fingerprint: str
  vocab_size: int
  merges: int
  unknown_id: int
  document_id: int
  newline_id: int
  normalization: str
  word_split: NotRequired[str]
  unknown: str
  document: NotRequired[str]


def describe(tokenizer: object, **notes: str) -> TokenizerDescription:
  """Returns a tokenizer's attributes, with notes on how it treats text."""
  attributes = {name: getattr(tokenizer, name) for name in _DESCRIBED}
  return cast(TokenizerDescription, attributes | notes)


class WordCache(dict[str, tuple[int, ...]]):
  """Maps words to their ids and encodes each short word only once.

  Starts over after `CACHED_WORDS` words, so that memory stays bounded.
  """

  def __init__(self, new_encoder: Callable[[], Callable[[str], Iterable[int]]]):
    """Starts empty.

    Args:
      new_encoder: returns a function from a word to its ids. It is called again
        whenever the cache is full, since that function may cache words itself.
    """
    super().__init__()
    self._new_encoder = new_encoder
    self._encode_word, self._misses = new_encoder(), 0

  def __missing__(self, word: str) -> tuple[int, ...]:
    if self._misses == CACHED_WORDS:
      self.clear()
      self._encode_word, self._misses = self._new_encoder(), 0
    self._misses += 1
    ids = tuple(self._encode_word(word))
    if len(word) <= _CACHED_LENGTH:
      self[word] = ids
    return ids

  def encode_lines(self, lines: Iterable[str], newline_id: int) -> list[int]:
    """Encodes white-space separated words, with `newline_id` between lines."""
    ids: list[int] = []
    for line in lines:
      ids += itertools.chain.from_iterable(map(self.__getitem__, line.split()))
      ids.append(newline_id)
    ids.pop()
    return ids


def save(files: Mapping[str, bytes], directory: str | os.PathLike[str]) -> None:
  """Writes a tokenizer's files into a directory, each atomically."""
  for name, content in files.items():
    storage.write_bytes(storage.path(directory) / name, content)


def check_id(token_id: int, vocab_size: int) -> None:
  """Raises a UserError for an id outside the vocabulary and its specials."""
  if not 0 <= token_id < vocab_size + NUM_SPECIALS:
    raise UserError(
      f'token id {token_id} is outside 0..{vocab_size + NUM_SPECIALS - 1}'
    )
