"""What `prepare` does to one document, whichever engine runs it.

Both engines call these, so that what comes out is the same, byte for byte.
"""

import collections
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt1_jax.data import (
  corpus,
  text as text_lib,
  tokenizer as tokenizer_lib,
)
from gpt1_jax.errors import UserError


def clean_document(document: corpus.Document) -> tuple[dict[str, Any], bytes]:
  """A document → its row (source, sha256, words, bytes) and cleaned UTF-8.

  Raises:
    UserError: it is damaged or empty.
  """
  text = text_lib.clean(text_lib.paragraphs(document.text()))
  if not text:
    raise UserError(f'{document.source}: no text is left after cleaning')
  data = text.encode()
  row = {
    'source': document.source,
    'sha256': hashlib.sha256(data).hexdigest(),
    'words': text_lib.num_words(text),
    'bytes': len(data),
  }
  return row, data


def digest_of(row: dict[str, Any]) -> bytes:
  """What copies of a document have in common, of any row of it."""
  return bytes.fromhex(row['sha256'])[:16]


def place(
  row: dict[str, Any], validation_fraction: float, is_copy: bool
) -> None:
  """Adds its split to a document's row; a copy counts no words."""
  row['split'] = split_of(row['sha256'], validation_fraction)
  if is_copy:
    row.update(split='duplicate', words=0)


def split_of(sha256: str, validation_fraction: float) -> str:
  """A document's split: a function of its own hash and nothing else."""
  return 'validation' if share_of(sha256) < validation_fraction else 'train'


def share_of(sha256: str) -> float:
  """A document's place in [0, 1); below the fraction it is held out."""
  return int(sha256[:13], 16) / 16**13


def check_splits(counts: collections.Counter[str], shares: list[float]) -> None:
  """Refuses a corpus that leaves a split empty.

  Args:
    counts: documents of each split, and duplicates.
    shares: the smallest and the largest `share_of` the documents kept.

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
  tokenizer: tokenizer_lib.Tokenizer, row: dict[str, Any], text: str
) -> np.ndarray:
  """Its tokens and its boundary, uint16; adds their number to the row.

  A duplicate has none.
  """
  ids: list[int] = []
  if row['split'] != 'duplicate':
    ids = [*tokenizer.encode_clean(text), tokenizer.document_id]
  row['tokens'] = len(ids)
  return np.array(ids, np.uint16)
