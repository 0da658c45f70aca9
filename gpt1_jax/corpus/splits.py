"""Splits documents into training and validation, by their hash or name."""

import collections
import dataclasses
import fnmatch
import math
from collections.abc import Iterator

from gpt1_jax.corpus.metadata import DocumentRow
from gpt1_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SplitRule:
  """Decides which split a document belongs to, from that document alone.

  Attributes:
    fraction: fraction of the documents to hold out, by hash.
    hold_out: fnmatch patterns; documents whose source matches are held out.
  """

  fraction: float
  hold_out: tuple[str, ...] = ()

  def settle(self, summary: 'SplitSummary') -> 'SplitRule':
    """Returns this rule; if it holds out nothing, one that does.

    Args:
      summary: totals over all documents under this rule.
    """
    if summary.counts['validation'] or not summary.extremes:
      return self
    smallest, _ = summary.extremes[0]
    return dataclasses.replace(self, fraction=math.nextafter(smallest, 1))

  def assign(self, row: DocumentRow, is_copy: bool) -> DocumentRow:
    """Returns the row with its split; a copy of a document counts no words."""
    if is_copy:
      return dataclasses.replace(row, split='duplicate', words=0)
    held_out = row.hash_fraction < self.fraction or any(self._matching(row))
    return dataclasses.replace(row, split='validation' if held_out else 'train')

  def reassign(self, row: DocumentRow) -> DocumentRow:
    """Returns the row with this rule's split in place of another rule's."""
    return self.assign(row, row.split == 'duplicate')

  def summarize(self, row: DocumentRow) -> 'SplitSummary':
    """Returns the summary of one document, for adding up."""
    kept = row.split != 'duplicate'
    return SplitSummary(
      counts=collections.Counter([row.split, *self._matching(row)]),
      extremes=((row.hash_fraction, row.source),) if kept else (),
      train_bytes=row.num_bytes if row.split == 'train' else 0,
    )

  def check(self, summary: 'SplitSummary') -> None:
    """Raises an error if training, or a --hold_out, gets no document.

    Prints the number of duplicates.

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
    if not counts['train']:
      largest, _ = summary.extremes[-1]
      raise UserError(
        f'the train split is empty: all {total} documents fell to validation; '
        'give more documents or '
        f'--validation_fraction={largest * 0.99:.4f} or less'
      )
    if not counts['validation']:
      print(
        f'validation text: {summary.extremes[0][1]}, one of {total} documents '
        f'(none fell to --validation_fraction={self.fraction:g})'
      )
    if counts['duplicate']:
      print(f'duplicates, left out: {counts["duplicate"]}, see documents.jsonl')

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
    extremes: smallest and largest hash of the documents kept, with sources.
    train_bytes: bytes of cleaned training text.
  """

  counts: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  extremes: tuple[tuple[float, str], ...] = ()
  train_bytes: int = 0

  @property
  def num_documents(self) -> int:
    """Documents of all splits, duplicates included."""
    return sum(self.counts[x] for x in ('train', 'validation', 'duplicate'))

  def __add__(self, other: 'SplitSummary') -> 'SplitSummary':
    extremes = self.extremes + other.extremes
    return SplitSummary(
      counts=self.counts + other.counts,
      extremes=(min(extremes), max(extremes)) if extremes else (),
      train_bytes=self.train_bytes + other.train_bytes,
    )
