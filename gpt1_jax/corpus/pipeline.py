"""Implements the steps of `prepare` for one document, for both engines."""

import dataclasses
import glob
import hashlib
import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpt1_jax.corpus import (
  cleaning,
  documents,
  inputs,
  sentencepiece_tokenizer,
  splits,
  tokenization,
)
from gpt1_jax.corpus.metadata import DocumentRow
from gpt1_jax.errors import UserError

REJECTED = 'rejected.jsonl'
_BLOCK_LENGTH = 1 << 16  # minimum number of characters to clean at once


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
  """The options that determine the prepared data; recorded in meta.json.

  Attributes:
    inputs: values of --input.
    text_field: field or column of a row that holds its text.
    merges: BPE merges to train; None with `tokenizer`.
    tokenizer: an existing tokenizer to use; None trains one.
    tokenizer_sample_mb: maximum megabytes of text to train the tokenizer on.
    validation_fraction: fraction of the documents to hold out, by hash.
    hold_out: fnmatch patterns; documents whose source matches are held out.
    shard_tokens: maximum tokens in a shard.
    strip_gutenberg: remove what Project Gutenberg adds to a book.
    skip_bad_rows: maximum number of bad documents to leave out, or, below 1,
      the maximum fraction of all documents.
  """

  inputs: tuple[str, ...]
  text_field: str
  merges: int | None
  tokenizer: str | None
  tokenizer_sample_mb: int
  validation_fraction: float
  hold_out: tuple[str, ...]
  shard_tokens: int
  strip_gutenberg: bool = False
  skip_bad_rows: float = 0.0

  def mistakes(self) -> list[str]:
    """Returns a line for each option that is missing or out of range."""
    lines = []
    if not self.inputs:
      lines.append('--input is missing; give a folder, file or corpus to read')
    fraction = self.validation_fraction
    if not (0 < fraction < 1 or (fraction == 0 and self.hold_out)):
      lines.append(
        f'--validation_fraction is {fraction}: must be between 0 and 1; 0 '
        'itself requires --hold_out'
      )
    for name in ('merges', 'tokenizer_sample_mb', 'shard_tokens'):
      value = getattr(self, name)
      if value is not None and value < 1:
        lines.append(f'--{name} is {value}: must be at least 1')
    most = sentencepiece_tokenizer.MAX_MERGES
    if self.merges is not None and self.merges > most:
      lines.append(f'--merges is {self.merges}: 16 bits hold at most {most}')
    skip = self.skip_bad_rows
    if not (0 <= skip < 1 or (skip >= 1 and float(skip).is_integer())):
      lines.append(
        f'--skip_bad_rows is {skip}: give a number, or a share below 1'
      )
    return lines

  def as_dict(self) -> dict[str, object]:
    """Returns the `settings` section of meta.json."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def load_tokenizer(self) -> tokenization.Tokenizer | None:
    """Loads --tokenizer; returns None if a tokenizer is to be trained."""
    return tokenization.load(self.tokenizer) if self.tokenizer else None


def plan(
  found: list[inputs.Input], settings: PrepareSettings
) -> tuple[list[inputs.Input], splits.SplitRule]:
  """Returns the inputs to read, and the rule that splits them.

  A corpus of one text file is cut in two: its last part is held out.
  """
  fraction = settings.validation_fraction
  if len(found) > 1 or found[0].kind != 'text' or settings.hold_out:
    return found, splits.SplitRule(fraction, settings.hold_out)
  print(f'validation text: the last {fraction:.0%} of the only file')
  train = found[0]._replace(span=(0.0, 1 - fraction))
  validation = found[0]._replace(span=(1 - fraction, 1.0))
  rule = splits.SplitRule(0.0, (glob.escape(validation.source),))
  return [train, validation], rule


class Rejected(NamedTuple):
  """A document that is left out; a line of rejected.jsonl."""

  source: str
  problem: str


def check_rejected(
  rejected: Sequence[Rejected], num_documents: int, settings: PrepareSettings
) -> None:
  """Raises UserError if more are rejected than --skip_bad_rows allows."""
  limit = settings.skip_bad_rows
  most = limit if limit >= 1 else limit * num_documents
  if len(rejected) > most:
    raise UserError(
      f'--skip_bad_rows={limit:g}: {len(rejected)} bad documents so far; the '
      f'first: {rejected[0].problem}'
    )


def write_rejected(
  directory: pathlib.Path, rejected: Sequence[Rejected]
) -> None:
  """Writes rejected.jsonl and prints a line, if documents were rejected."""
  if not rejected:
    return
  lines = (json.dumps(row._asdict()) + '\n' for row in rejected)
  (directory / REJECTED).write_text(''.join(lines), encoding='utf-8')
  print(f'rejected: {len(rejected)} documents, see {REJECTED}')


def clean_document(
  document: documents.Document, settings: PrepareSettings
) -> tuple[DocumentRow, bytes] | Rejected:
  """Returns a document's first row and its cleaned text in UTF-8.

  Raises:
    UserError: the document is bad, and none may be left out.
  """
  try:
    text = document.text()
    if settings.strip_gutenberg:
      text = cleaning.strip_gutenberg(text)
    data, words = _clean(text)
    if not data:
      raise UserError(f'{document.source}: no text is left after cleaning')
  except UserError as error:
    if not settings.skip_bad_rows:
      raise
    return Rejected(document.source, str(error))
  row = DocumentRow(
    source=document.source,
    sha256=hashlib.sha256(data).hexdigest(),
    words=words,
    num_bytes=len(data),
  )
  return row, data


def _clean(text: str) -> tuple[bytes, int]:
  """Returns a cleaned document in UTF-8, and its number of words.

  Cleans it in small blocks: cleaning takes many times the memory of its input.
  """
  out, words = io.BytesIO(), 0
  for block in _blocks(cleaning.read_paragraphs(text)):
    if cleaned := cleaning.clean(block):
      out.write(f'{cleaning.SEPARATOR if words else ""}{cleaned}'.encode())
      words += cleaning.num_words(cleaned)
  return out.getvalue(), words


def _blocks(paragraphs: Iterable[str]) -> Iterator[str]:
  """Joins consecutive paragraphs into blocks of at least _BLOCK_LENGTH."""
  block: list[str] = []
  length = 0
  for paragraph in paragraphs:
    block.append(paragraph)
    length += len(paragraph)
    if length >= _BLOCK_LENGTH:
      yield '\n'.join(block)
      block, length = [], 0
  yield '\n'.join(block)


def sampled_lines(text: str, share: float) -> Iterator[str]:
  """Yields a fraction of the paragraphs of a cleaned text, chosen by hash.

  The tokenizer is trained on them.
  """
  for line in text.split('\n'):
    if share >= 1 or _uniform(line) < share:
      yield line


def _uniform(line: str) -> float:
  digest = hashlib.blake2b(line.strip().encode(), digest_size=8).digest()
  return int.from_bytes(digest) / 2**64


def encode_document(
  tokenizer: tokenization.Tokenizer, row: DocumentRow, text: str
) -> tuple[DocumentRow, np.ndarray]:
  """Returns the row with its number of tokens, and the tokens (uint16).

  The last token is the document boundary. A duplicate has no tokens.
  """
  ids: list[int] = []
  if row.split != 'duplicate':
    ids = tokenizer.encode_clean(text)
    ids.append(tokenizer.document_id)
  return dataclasses.replace(row, tokens=len(ids)), np.array(ids, np.uint16)
