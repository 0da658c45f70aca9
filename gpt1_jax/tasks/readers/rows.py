"""Reads the rows of a file: tables, JSON lines, RACE's articles.

Every reader yields `Row`s; labels are still spelled as the file spells them
(`examples.py` turns them into numbers).
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives

_ARTICLE = ('article', 'questions', 'options', 'answers')
STORY = (
  *(f'InputSentence{number}' for number in (1, 2, 3, 4)),
  'RandomFifthSentenceQuiz1',
  'RandomFifthSentenceQuiz2',
)

Cells = dict[str, Any]  # column -> text in a table, any value in JSON
_Numbered = Iterator[tuple[int, list[str]]]  # line from 1, cells


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a split.

  Attributes:
    number: position from 0 in the file, or in all files of the split; a
      header does not count.
    where: file and line, for error messages.
    cells: column -> cell; a row that is cut short lacks columns.
  """

  number: int
  where: str
  cells: Cells


def read(
  source: archives.Source, needed: Sequence[str], columns: Sequence[str] = ()
) -> Iterator[Row]:
  """Yields the rows of a table or of JSON lines.

  A `.csv` is comma-separated and quoted. A `.jsonl`, and any file whose first
  line begins with `{`, is JSON lines. Other files are split at tabs and have
  no quoting. Cells beyond the header are ignored (SNLI's own files are
  ragged), blank lines are skipped.

  Args:
    source: the file.
    needed: columns a header must have; JSON rows are not checked.
    columns: names for a table without a header, used if the first line does
      not hold all of `needed`.

  Raises:
    UserError: the file is empty or not UTF-8, a column is missing, or a line
      is not a JSON object; names file and line.
  """
  empty = True
  for number, (line, cells) in enumerate(_cells(source, needed, columns)):
    empty = False
    yield Row(number, f'{source}:{line}', cells)
  if empty:
    raise UserError(f'{source}: no rows in this file')


def lines(source: archives.Source) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line); only a newline ends a line."""
  with source.open() as stream:
    for number, raw in enumerate(stream, 1):
      try:
        # The first line may begin with a byte-order mark.
        line = raw.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise UserError(
          f'{source}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at '
          f'{error.start + 1} in the line); save the file as UTF-8'
        ) from None
      yield number, line.rstrip('\r\n')


def articles(sources: Sequence[archives.Source]) -> Iterator[Row]:
  """Yields a row for each question of RACE's files; see `questions`.

  Raises:
    UserError: a file is not an article; names the file.
  """
  for source, data in archives.contents(sources):
    try:
      article = json.loads(data.decode('utf-8-sig'))
    except UnicodeDecodeError as error:
      raise UserError(
        f'{source}: not UTF-8 at byte {error.start}; save the file as UTF-8'
      ) from None
    except json.JSONDecodeError as error:
      raise UserError(
        f'{source}: not a JSON object ({error.msg} at line {error.lineno})'
      ) from None
    yield from questions(article, str(source))


def questions(article: object, where: str) -> Iterator[Row]:
  """Yields a row for each question of an article of RACE.

  Args:
    article: a dict of `article`, and of the lists `questions`, `options` and
      `answers`, all of one length.
    where: names the article in error messages.

  Yields:
    Rows with article, question (its blank `_` kept), options (a list) and
    answer (a letter), numbered within the article.

  Raises:
    UserError: the article does not have this form.
  """
  if not isinstance(article, dict):
    raise UserError(f'{where}: not a JSON object')
  for key in _ARTICLE:
    if not isinstance(article.get(key), str if key == 'article' else list):
      raise UserError(
        f'{where}: RACE needs {key!r}; this file has '
        + (', '.join(repr(k) for k in list(article)[:16]) or 'nothing')
      )
  lists = [article[key] for key in _ARTICLE[1:]]
  if len({len(values) for values in lists}) > 1:
    counts = ', '.join(f'{len(article[key])} {key}' for key in _ARTICLE[1:])
    raise UserError(f'{where}: {counts}; the numbers must be equal')
  for number, values in enumerate(zip(*lists, strict=True)):
    cells = dict(zip(('question', 'options', 'answer'), values, strict=True))
    cells['article'] = article['article']
    yield Row(number, f'{where}, question {number + 1}', cells)


def renumbered(found: Iterable[Row]) -> Iterator[Row]:
  """Numbers the rows of several files in the order given."""
  for number, row in enumerate(found):
    yield dataclasses.replace(row, number=number)


def story(cells: Cells) -> Cells:
  """Adds `context` and `endings` to the cells of a row of Story Cloze.

  The context is the four sentences joined by spaces (C: datasets.py). A row
  that lacks cells is returned unchanged.
  """
  if any(not isinstance(cells.get(column), str) for column in STORY):
    return cells
  return {
    **cells,
    'context': ' '.join(cells[column] for column in STORY[:4]),
    'endings': [cells[column] for column in STORY[4:]],
  }


def _cells(
  source: archives.Source, needed: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[int, Cells]]:
  """Yields (line number, cells) of a file of any of the three forms."""
  if source.name.endswith('.csv'):
    return _by_column(_comma_separated(source), source, needed, columns)
  full = ((n, line) for n, line in lines(source) if line.strip())
  first = list(itertools.islice(full, 1))
  found = itertools.chain(first, full)
  if source.name.endswith('.jsonl') or (first and first[0][1][0] == '{'):
    return ((n, _json_object(line, f'{source}:{n}')) for n, line in found)
  tabbed = ((n, line.split('\t')) for n, line in found)
  return _by_column(tabbed, source, needed, columns)


def _by_column(
  table: _Numbered,
  source: archives.Source,
  needed: Sequence[str],
  columns: Sequence[str],
) -> Iterator[tuple[int, Cells]]:
  """Yields the rows below the header as dicts."""
  header: Sequence[str] = ()
  for line, cells in table:
    if not header:
      # TFDS's test fixture of MRPC spells out its byte-order mark.
      names = [cells[0].removeprefix('BOM'), *cells[1:]]
      missing = [column for column in needed if column not in names]
      header = columns if missing else names
      if not header:
        raise UserError(
          f'{source}:{line}: no column {missing[0]!r} in the header: '
          + ', '.join(repr(name) for name in names[:16])
        )
      if not missing:
        continue
    yield line, dict(zip(header, cells, strict=False))


def _comma_separated(source: archives.Source) -> _Numbered:
  with source.open() as stream:
    text = io.TextIOWrapper(stream, 'utf-8-sig', newline='')
    reader = csv.reader(text, strict=True)
    try:
      for cells in reader:
        if any(cells):
          yield reader.line_num, cells
    except UnicodeDecodeError as error:
      raise UserError(
        f'{source}:{reader.line_num + 1}: not UTF-8 (byte '
        f'0x{error.object[error.start]:02x} near there); save the file as '
        'UTF-8'
      ) from None
    except csv.Error as error:
      raise UserError(
        f'{source}:{reader.line_num}: not comma-separated values ({error})'
      ) from None


def _json_object(line: str, where: str) -> Cells:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(
      f'{where}: not a JSON object ({error.msg} at column {error.colno}); '
      'write one object per line'
    ) from None
  if not isinstance(row, dict):
    raise UserError(f'{where}: a JSON {type(row).__name__}, not an object')
  return row
