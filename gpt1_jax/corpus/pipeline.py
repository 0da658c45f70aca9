"""The steps that `prepare` applies to a document, the same on both engines."""

import collections
import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Iterator

import numpy as np

from gpt1_jax.corpus import cleaning, documents, tokenization
from gpt1_jax.corpus.metadata import DocumentRow
from gpt1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
  """The options that determine the prepared data; recorded in meta.json.

  Attributes:
    inputs: values of --input.
    text_field: field or column of a row that holds its text.
    merges: BPE merges to train; None with `tokenizer`.
    tokenizer: an existing tokenizer to use; None trains one.
    tokenizer_sample_mb: megabytes of text to train the tokenizer on, at most.
    validation_fraction: share of the documents to hold out, by their hash.
    hold_out: patterns (fnmatch) of the sources of documents to hold out.
    shard_tokens: tokens in a shard, at most.
  """

  inputs: tuple[str, ...]
  text_field: str
  merges: int | None
  tokenizer: str | None
  tokenizer_sample_mb: int
  validation_fraction: float
  hold_out: tuple[str, ...]
  shard_tokens: int

  def mistakes(self) -> list[str]:
    """Returns a line for each option that is missing or out of range."""
    lines = []
    if not self.inputs:
      lines.append('--input is missing; give a folder, file or corpus to read')
    fraction = self.validation_fraction
    if not (0 < fraction < 1 or (fraction == 0 and self.hold_out)):
      lines.append(
        f'--validation_fraction is {fraction}: it lies between 0 and 1; 0 '
        'itself requires --hold_out'
      )
    for name in ('merges', 'tokenizer_sample_mb', 'shard_tokens'):
      value = getattr(self, name)
      if value is not None and value < 1:
        lines.append(f'--{name} is {value}: at least 1')
    return lines

  def as_dict(self) -> dict[str, object]:
    """Returns the section `settings` of meta.json."""
    return json.loads(json.dumps(dataclasses.asdict(self)))

  def load_tokenizer(self) -> tokenization.Tokenizer | None:
    """Loads --tokenizer; returns None if a tokenizer is to be trained."""
    return tokenization.load(self.tokenizer) if self.tokenizer else None


@dataclasses.dataclass(frozen=True)
class SplitRule:
  """Decides which documents are held out, whatever else the corpus holds.

  Attributes:
    fraction: share of the documents to hold out, by their hash.
    hold_out: patterns (fnmatch) of the sources of documents to hold out.
  """

  fraction: float
  hold_out: tuple[str, ...] = ()

  def assign(self, row: DocumentRow, is_copy: bool) -> DocumentRow:
    """Returns the row with its split; a copy of a document has no words."""
    if is_copy:
      return dataclasses.replace(row, split='duplicate', words=0)
    held_out = row.hash_fraction < self.fraction or any(self._matching(row))
    return dataclasses.replace(row, split='validation' if held_out else 'train')

  def summarize(self, row: DocumentRow) -> 'SplitSummary':
    """Returns the summary of one document, for adding up."""
    kept = row.split != 'duplicate'
    return SplitSummary(
      counts=collections.Counter([row.split, *self._matching(row)]),
      fractions=(row.hash_fraction,) if kept else (),
      train_bytes=row.num_bytes if row.split == 'train' else 0,
    )

  def check(self, summary: 'SplitSummary') -> None:
    """Refuses a corpus that leaves a split, or a pattern, without documents.

    Raises:
      UserError: says which options would fill the split.
    """
    counts = summary.counts
    total = counts['train'] + counts['validation']
    if not total:
      raise UserError('the input holds no document')
    if total == 1:
      copies = ' (and copies of it)' if counts['duplicate'] else ''
      raise UserError(
        f'the input holds a single document{copies}, and training and '
        'validation need one each; give more, or cut it into several files'
      )
    for pattern in self.hold_out:
      if not counts[_flag(pattern)]:
        raise UserError(
          f'{_flag(pattern)}: matches the source of no document; sources are '
          'paths as --input names them, rows end in :NUMBER'
        )
    if not counts['train'] and self.hold_out:
      raise UserError(
        'the train split is empty: --hold_out leaves no document for it'
      )
    smallest, largest = summary.fractions[0], summary.fractions[-1]
    # Any fraction between two hashes will do; stay clear of both.
    for split, advice in (
      ('validation', f'{smallest * 1.01 + 1e-4:.4f} or more'),
      ('train', f'{largest * 0.99:.4f} or less'),
    ):
      if not counts[split]:
        raise UserError(
          f'the {split} split is empty: all {total} documents fell to the '
          'other; give more documents or '
          f'--validation_fraction={advice}'
        )

  def _matching(self, row: DocumentRow) -> Iterator[str]:
    """Yields each --hold_out that matches a document."""
    for pattern in self.hold_out:
      if fnmatch.fnmatchcase(row.source, pattern):
        yield _flag(pattern)


def _flag(pattern: str) -> str:
  return f'--hold_out={pattern}'


@dataclasses.dataclass(frozen=True)
class SplitSummary:
  """Totals over documents that have a split; summaries add up with `+`.

  Attributes:
    counts: documents of each split, and of each --hold_out.
    fractions: the smallest and the largest hash of the documents kept.
    train_bytes: bytes of cleaned training text.
  """

  counts: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  fractions: tuple[float, ...] = ()
  train_bytes: int = 0

  def __add__(self, other: 'SplitSummary') -> 'SplitSummary':
    fractions = self.fractions + other.fractions
    return SplitSummary(
      counts=self.counts + other.counts,
      fractions=(min(fractions), max(fractions)) if fractions else (),
      train_bytes=self.train_bytes + other.train_bytes,
    )


def clean_document(
  document: documents.Document,
) -> tuple[DocumentRow, bytes]:
  """Returns a document's first row and its cleaned text in UTF-8.

  Raises:
    UserError: the document is damaged or empty.
  """
  text = cleaning.clean(cleaning.paragraphs(document.text()))
  if not text:
    raise UserError(f'{document.source}: no text is left after cleaning')
  data = text.encode()
  row = DocumentRow(
    source=document.source,
    sha256=hashlib.sha256(data).hexdigest(),
    words=cleaning.num_words(text),
    num_bytes=len(data),
  )
  return row, data


def sampled_lines(text: str, share: float) -> Iterator[str]:
  """Yields a share of the paragraphs of a cleaned text, chosen by their hash.

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

  They end with the document boundary; a duplicate has none.
  """
  ids: list[int] = []
  if row.split != 'duplicate':
    ids = [*tokenizer.encode_clean(text), tokenizer.document_id]
  return dataclasses.replace(row, tokens=len(ids)), np.array(ids, np.uint16)
