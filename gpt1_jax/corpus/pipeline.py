"""What `prepare` does to one document, whichever engine runs it.

Both engines call these, so that what comes out is the same, byte for byte.
"""

import collections
import dataclasses
import fnmatch
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt1_jax.corpus import (
  cleaning,
  documents,
  tokenization,
)
from gpt1_jax.errors import UserError


def clean_document(
  document: documents.Document,
) -> tuple[dict[str, Any], bytes]:
  """A document → its row (source, sha256, words, bytes) and cleaned UTF-8.

  Raises:
    UserError: it is damaged or empty.
  """
  text = cleaning.clean(cleaning.paragraphs(document.text()))
  if not text:
    raise UserError(f'{document.source}: no text is left after cleaning')
  data = text.encode()
  row = {
    'source': document.source,
    'sha256': hashlib.sha256(data).hexdigest(),
    'words': cleaning.num_words(text),
    'bytes': len(data),
  }
  return row, data


def digest_of(row: dict[str, Any]) -> bytes:
  """What copies of a document have in common, of any row of it."""
  return bytes.fromhex(row['sha256'])[:16]


@dataclasses.dataclass(frozen=True)
class SplitRule:
  """Which documents are held out, whatever else is in the corpus.

  Attributes:
    fraction: of all documents, by their hash.
    hold_out: patterns (`fnmatch`) of the sources of others.
  """

  fraction: float
  hold_out: tuple[str, ...]

  @classmethod
  def of(cls, settings: dict[str, Any]) -> 'SplitRule':
    """From prepare's settings."""
    return cls(settings['validation_fraction'], tuple(settings['hold_out']))

  def place(self, row: dict[str, Any], is_copy: bool) -> None:
    """Adds its split to a document's row; a copy counts no words."""
    row['split'] = 'train'
    if share_of(row['sha256']) < self.fraction or any(self._named(row)):
      row['split'] = 'validation'
    if is_copy:
      row.update(split='duplicate', words=0)

  def counts_of(self, row: dict[str, Any]) -> list[str]:
    """What a placed document counts for: its split, patterns like it."""
    return [row['split'], *map(_held_out_by, self._named(row))]

  def _named(self, row: dict[str, Any]) -> Iterator[str]:
    for pattern in self.hold_out:
      if fnmatch.fnmatchcase(row['source'], pattern):
        yield pattern


def _held_out_by(pattern: str) -> str:
  return f'--hold_out={pattern}'


def share_of(sha256: str) -> float:
  """A document's place in [0, 1); below the fraction it is held out."""
  return int(sha256[:13], 16) / 16**13


def check_splits(
  counts: collections.Counter[str], shares: list[float], rule: SplitRule
) -> None:
  """Refuses a corpus that leaves a split empty.

  Args:
    counts: documents of each of their `counts_of`.
    shares: the smallest and the largest `share_of` the documents kept.
    rule: that placed them.

  Raises:
    UserError: with what would fill it.
  """
  found = counts['train'] + counts['validation']
  if not found:
    raise UserError('the input holds no document')
  if found == 1:
    raise UserError(
      'the input holds a single document'
      + ' (and copies of it)' * bool(counts['duplicate'])
      + ', and training and validation need one each; give more, or cut it '
      'into several files'
    )
  for pattern in rule.hold_out:
    if not counts[_held_out_by(pattern)]:
      raise UserError(
        f'{_held_out_by(pattern)}: the source of no document is like it; the '
        'sources are paths as --input names them, a row with :NUMBER'
      )
  if not counts['train'] and rule.hold_out:
    raise UserError('the train split is empty: --hold_out leaves it nothing')
  for split, bound in (('validation', shares[0]), ('train', shares[-1])):
    if not counts[split]:
      # Between two shares any fraction will do; a little inside is robust.
      least = split == 'validation'
      wanted = bound * 1.01 + 1e-4 if least else bound * 0.99
      raise UserError(
        f'the {split} split is empty: all {found} documents fell to the other; '
        f'give more documents or --validation_fraction={wanted:.4f} or '
        + ('more' if least else 'less')
      )


def sampled_lines(text: str, share: float) -> Iterator[str]:
  """The paragraphs of a cleaned text that the tokenizer is trained on."""
  for line in text.split('\n'):
    if share >= 1 or _uniform(line) < share:
      yield line


def _uniform(line: str) -> float:
  digest = hashlib.blake2b(line.strip().encode(), digest_size=8).digest()
  return int.from_bytes(digest) / 2**64


def encode_document(
  tokenizer: tokenization.Tokenizer, row: dict[str, Any], text: str
) -> np.ndarray:
  """Its tokens and its boundary, uint16; adds their number to the row.

  A duplicate has none.
  """
  ids: list[int] = []
  if row['split'] != 'duplicate':
    ids = [*tokenizer.encode_clean(text), tokenizer.document_id]
  row['tokens'] = len(ids)
  return np.array(ids, np.uint16)
