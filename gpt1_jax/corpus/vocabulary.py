"""The parts that both tokenizers share: special rows and a cache of words."""

import itertools
from collections.abc import Callable, Iterable
from typing import NotRequired, TypedDict

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


class TokenizerDescription(TypedDict):
  """The section `tokenizer` of meta.json."""

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


class WordCache(dict[str, tuple[int, ...]]):
  """Maps words to their ids and encodes each short word only once."""

  def __init__(self, encode_word: Callable[[str], Iterable[int]]):
    super().__init__()
    self._encode_word = encode_word
    self._misses = 0

  def __missing__(self, word: str) -> tuple[int, ...]:
    self._misses += 1
    ids = tuple(self._encode_word(word))
    if len(word) <= _CACHED_LENGTH:
      self[word] = ids
    return ids

  @property
  def is_full(self) -> bool:
    """True once so many words were encoded that memory would grow."""
    return self._misses > CACHED_WORDS

  def encode_lines(self, text: str, newline_id: int) -> list[int]:
    """Encodes white-space separated words, with `newline_id` between lines."""
    ids: list[int] = []
    for line in text.split('\n'):
      ids += itertools.chain.from_iterable(map(self.__getitem__, line.split()))
      ids.append(newline_id)
    ids.pop()
    return ids


def check_id(token_id: int, vocab_size: int) -> None:
  """Raises a UserError for an id outside the vocabulary and its specials."""
  if not 0 <= token_id < vocab_size + NUM_SPECIALS:
    raise UserError(
      f'token id {token_id} is outside 0..{vocab_size + NUM_SPECIALS - 1}'
    )
