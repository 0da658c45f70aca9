"""Reads the rows of a file: tables, JSON lines, RACE's articles.

Every reader yields `Row`s; labels are still spelled as the file spells them
(`examples.py` turns them into numbers).
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpt1_jax.corpus import csv_rows, json_rows
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives

_ARTICLE = ('article', 'questions', 'options', 'answers')
STORY = (
  *(f'InputSentence{number}' for number in (1, 2, 3, 4)),
  'RandomFifthSentenceQuiz1',
  'RandomFifthSentenceQuiz2',
)

Cells = dict[str, Any]  # column -> text in a table, any value in JSON


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a split.

  Attributes:
    where: file and line, for error messages.
    cells: column -> cell; a row that is cut short lacks columns.
    extra: cells beyond the header, without the empty ones at the end.
  """

  where: str
  cells: Cells
  extra: tuple[str, ...] = ()


def read(
  source: archives.Source, needed: Sequence[str], columns: Sequence[str] = ()
) -> Iterator[Row]:
  """Yields the rows of a table or of JSON lines.

  A `.csv` is comma-separated and quoted; blanks after a comma are not part of a
  cell. A `.jsonl`, and any file whose first line begins with `{`, is JSON
  lines. Other files are split at tabs; quotes and blanks are part of a cell.
  Blank lines are skipped.

  Args:
    needed: columns a header must have; JSON rows are not checked.
    columns: names for a table without a header, used if the first line does
      not hold all of `needed`.

  Raises:
    UserError: the file is empty or not UTF-8, a column is missing, or a line
      is not a JSON object; names file and line.
  """
  if source.name.lower().endswith('.csv'):
    decoded = (line for _, line in _decoded(source))
    table = csv_rows.read(decoded, source)
    yield from _by_column(table, source, needed, columns)
    return
  full = ((n, line) for n, line in lines(source) if line.strip())
  first = list(itertools.islice(full, 1))
  found = itertools.chain(first, full)
  in_json = source.name.lower().endswith('.jsonl')
  if first and (in_json or first[0][1].lstrip().startswith('{')):
    for number, line in found:
      where = f'{source}:{number}'
      yield Row(where, _json_object(line, where, '; write one per line'))
    return
  tabbed = ((n, line.split('\t')) for n, line in found)
  yield from _by_column(tabbed, source, needed, columns)


def lines(source: archives.Source) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line); only a newline ends a line."""
  return ((number, line.rstrip('\r\n')) for number, line in _decoded(source))


def articles(sources: Iterable[archives.Source]) -> Iterator[Row]:
  """Yields a row for each question of RACE's files; see `questions`.

  Raises:
    UserError: a file is not an article; names the file.
  """
  for source, data in archives.contents(list(sources)):
    article = _json_object(_utf8(data, str(source)), str(source))
    yield from questions(article, str(source))


def questions(article: Cells, where: str) -> Iterator[Row]:
  """Yields a row for each question of an article of RACE.

  Args:
    article: a dict of `article`, and of the lists `questions`, `options` and
      `answers`, all of one length.

  Yields:
    Rows with article, question (its blank `_` kept), options (a list) and
    answer (a letter).

  Raises:
    UserError: the article does not have this form.
  """
  for key in _ARTICLE:
    if not isinstance(article.get(key), str if key == 'article' else list):
      raise UserError(
        f'{where}: RACE needs {key!r}; this file has {_in(article)}'
      )
  lists = [article[key] for key in _ARTICLE[1:]]
  if len({len(values) for values in lists}) > 1:
    counts = ', '.join(f'{len(article[key])} {key}' for key in _ARTICLE[1:])
    raise UserError(f'{where}: {counts}; the numbers must be equal')
  for number, values in enumerate(zip(*lists, strict=True), 1):
    cells = dict(zip(('question', 'options', 'answer'), values, strict=True))
    cells['article'] = article['article']
    yield Row(f'{where}, question {number}', cells)


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


def lacking(row: Row, column: str) -> str:
  """Returns the words for a row without a column."""
  return f'no {column!r} in this row; it has {_in(row.cells)}'


def text(row: Row, column: str) -> str:
  """Returns a cell that must be a text.

  Raises:
    UserError: the row lacks the cell, or it is not a text.
  """
  if column not in row.cells:
    raise UserError(f'{row.where}: {lacking(row, column)}')
  value = row.cells[column]
  if not isinstance(value, str):
    raise UserError(f'{row.where}: {column!r} is {shown(value)}, not a text')
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{row.where}: {column!r} has an unpaired surrogate (\\u'
      f'{ord(value[error.start]):04x}) at {error.start + 1}; escape both halves'
    ) from None
  return value


def shown(value: object) -> str:
  """Returns a value as an error message shows it: JSON's names, and short."""
  names = {None: 'null', True: 'true', False: 'false'}
  if value is None or isinstance(value, bool):
    return names[value]
  whole = repr(value)
  return whole if len(whole) <= 60 else f'{whole[:60]}...'


def _in(names: Iterable[str]) -> str:
  some = itertools.islice(names, 16)
  return ', '.join(repr(name)[:60] for name in some) or 'nothing'


def _by_column(
  table: Iterable[tuple[int, list[str]]],
  source: archives.Source,
  needed: Sequence[str],
  columns: Sequence[str],
) -> Iterator[Row]:
  """Yields the rows below the header."""
  header: Sequence[str] = ()
  empty = True
  for line, cells in table:
    if not header:
      # TFDS's test fixture of MRPC spells out its byte-order mark.
      names = [cells[0].removeprefix('BOM'), *cells[1:]]
      names = [name.strip() for name in names]
      absent = [column for column in needed if names.count(column) != 1]
      header = columns if absent else names
      if not header:
        times = 'two columns' if absent[0] in names else 'no column'
        problem = f'{times} {absent[0]!r} in the header: {_in(names)}'
        if any('\r' in name for name in names):
          problem = csv_rows.BARE_CR
        raise UserError(f'{source}:{line}: {problem}')
      if not absent:
        _check_unique(names, f'{source}:{line}')
        continue
    extra = cells[len(header) :]
    while extra and not extra[-1].strip():
      extra.pop()
    row = dict(zip(header, cells, strict=False))
    yield Row(f'{source}:{line}', row, tuple(extra))
    empty = False
  if empty:
    raise UserError(f'{source}: no rows in this file')


def _check_unique(names: Sequence[str], where: str) -> None:
  """Refuses a header in which a column would replace another of its name."""
  twice = [name for name in names if name and names.count(name) > 1]
  if twice:
    raise UserError(
      f'{where}: two columns {shown(twice[0])} in the header; rename one'
    )


def _decoded(source: archives.Source) -> Iterator[tuple[int, str]]:
  """Yields (number from 1, line with its end)."""
  with source.open() as stream:
    raw_lines = iter(lambda: stream.readline(archives.MAX_BYTES + 1), b'')
    for number, raw in enumerate(raw_lines, 1):
      archives.check_size(raw, f'{source}:{number}')
      line = _utf8(raw, f'{source}:{number}')
      # The first line may begin with a byte-order mark.
      yield number, line.removeprefix('\ufeff') if number == 1 else line


def _utf8(raw: bytes, where: str) -> str:
  try:
    return raw.decode()
  except UnicodeDecodeError as error:
    raise UserError(
      f'{where}: not UTF-8 (byte 0x{raw[error.start]:02x} at '
      f'{error.start + 1}); save the file as UTF-8'
    ) from None


def _json_object(text: str, where: str, remedy: str = '') -> Cells:
  try:
    value = json_rows.parse(text.removeprefix('\ufeff'))
  except json.JSONDecodeError as error:
    reason = f'{error.msg} at character {error.pos + 1}'
    raise UserError(f'{where}: not a JSON object ({reason}){remedy}') from None
  except (ValueError, RecursionError) as error:
    raise UserError(f'{where}: not a JSON object ({error})') from None
  if not isinstance(value, dict):
    raise UserError(f'{where}: a JSON {type(value).__name__}, not an object')
  return value
