"""Reads the rows of a task's file as dicts, whatever its form.

Tables with tabs, comma-separated tables, JSON lines, and RACE's articles, one
JSON object a file. Each row comes with the place it was read from.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from gpt1_jax import errors
from gpt1_jax.tasks.readers import archives

_ARTICLE = ('article', 'questions', 'options', 'answers')
STORY = (
  *(f'InputSentence{number}' for number in (1, 2, 3, 4)),
  'RandomFifthSentenceQuiz1',
  'RandomFifthSentenceQuiz2',
)


def read(
  source: archives.Source, needed: Sequence[str], columns: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, row) of a table or of JSON lines.

  A `.csv` is comma-separated and quoted. Other tables are split at tabs with
  quoting off: a `"` in a cell is a character. A row shorter than the header
  lacks the keys of the missing cells; cells beyond the header are ignored
  (SNLI's own files are ragged). Blank lines are skipped. A file whose first
  line begins with `{` is JSON lines.

  Args:
    source: the file.
    needed: columns the header must have (JSON rows are the caller's to check).
    columns: names for a table without a header, taken where the first line
      does not hold all of `needed`.

  Raises:
    UserError: not UTF-8, empty, a column missing, or a line that is no JSON
      object; the message names file and line.
  """
  if source.name.endswith('.csv'):
    yield from _csv(source, needed)
    return
  header: list[str] = []
  as_json = source.name.endswith('.jsonl')
  found = False
  for number, line in lines(source):
    if not line.strip():
      continue
    if not found and line.startswith('{'):
      as_json = True
    if as_json:
      found = True
      yield number, _json_row(line, f'{source}:{number}')
      continue
    cells = line.split('\t')
    if not header:
      header, is_data = _header(cells, needed, columns, f'{source}:{number}')
      if not is_data:
        continue
    found = True
    yield number, dict(zip(header, cells, strict=False))
  if not found:
    raise errors.UserError(f'{source}: no rows in it')


def articles(
  sources: Sequence[archives.Source],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where, row) for each question of RACE's files; see `questions`.

  Raises:
    UserError: a file is no such JSON object; the message names it.
  """
  for source, data in archives.contents(sources):
    try:
      article = json.loads(data.decode('utf-8-sig'))
    except UnicodeDecodeError as error:
      raise errors.UserError(
        f'{source}: not UTF-8 at byte {error.start}; save the file as UTF-8'
      ) from None
    except json.JSONDecodeError as error:
      raise errors.UserError(
        f'{source}: not a JSON object ({error.msg} at line {error.lineno})'
      ) from None
    yield from questions(article, str(source))


def questions(article: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Flattens an article of RACE: a row a question, blanks (`_`) kept.

  Args:
    article: `article`, and `questions`, `options`, `answers` of one length.
    where: it was read.

  Yields:
    Where, and a dict of article, question, options (a list), answer (a
    letter).

  Raises:
    UserError: the article is not of this form.
  """
  if not isinstance(article, dict):
    raise errors.UserError(f'{where}: not a JSON object')
  for key in _ARTICLE:
    if not isinstance(article.get(key), str if key == 'article' else list):
      raise errors.UserError(
        f'{where}: no {key!r} as RACE has it; it has '
        + (', '.join(repr(k) for k in list(article)[:16]) or 'nothing')
      )
  lists = [article[key] for key in _ARTICLE[1:]]
  if len({len(values) for values in lists}) > 1:
    counts = ', '.join(f'{len(article[key])} {key}' for key in _ARTICLE[1:])
    raise errors.UserError(f'{where}: {counts}; as many of each are wanted')
  for number, (question, options, answer) in enumerate(
    zip(*lists, strict=True), 1
  ):
    yield (
      f'{where}, question {number}',
      {
        'article': article['article'],
        'question': question,
        'options': options,
        'answer': answer,
      },
    )


def story(row: dict[str, Any]) -> dict[str, Any]:
  """Story Cloze's columns as `context` and `endings`; others are kept.

  The four sentences are joined by spaces (C: datasets.py).
  """
  if any(not isinstance(row.get(column), str) for column in STORY):
    return row  # cut short: the reader names what is missing
  return {
    **row,
    'context': ' '.join(row[column] for column in STORY[:4]),
    'endings': [row[column] for column in STORY[4:]],
  }


def _csv(
  source: archives.Source, needed: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Rows of a quoted, comma-separated table with a header."""
  header: list[str] = []
  found = False
  with source.open() as stream:
    text = io.TextIOWrapper(stream, 'utf-8-sig', newline='')
    reader = csv.reader(text, strict=True)
    try:
      for cells in reader:
        if not any(cells):
          continue
        where = f'{source}:{reader.line_num}'
        if not header:
          header, _ = _header(cells, needed, (), where)
          continue
        found = True
        yield reader.line_num, dict(zip(header, cells, strict=False))
    except UnicodeDecodeError as error:
      raise errors.UserError(
        f'{source}:{reader.line_num + 1}: not UTF-8 (byte '
        f'0x{error.object[error.start]:02x} near there); save the file as '
        'UTF-8'
      ) from None
    except csv.Error as error:
      raise errors.UserError(
        f'{source}:{reader.line_num}: not comma-separated values ({error})'
      ) from None
  if not found:
    raise errors.UserError(f'{source}: no rows in it')


def lines(source: archives.Source) -> Iterator[tuple[int, str]]:
  """Lines ended by a newline only: text may hold other separators."""
  with source.open() as stream:
    for number, raw in enumerate(stream, 1):
      try:
        # The first line may begin with a byte-order mark.
        line = raw.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise errors.UserError(
          f'{source}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at '
          f'{error.start + 1} in the line); save the file as UTF-8'
        ) from None
      yield number, line.rstrip('\r\n')


def _header(
  cells: list[str], needed: Sequence[str], columns: Sequence[str], where: str
) -> tuple[list[str], bool]:
  """Column names, and whether the line itself is a row of data."""
  # TFDS's test fixture of MRPC spells its byte-order mark out.
  cells = [cells[0].removeprefix('BOM'), *cells[1:]]
  missing = [column for column in needed if column not in cells]
  if not missing:
    return cells, False
  if columns:
    return list(columns), True
  raise errors.UserError(
    f'{where}: no column {missing[0]!r} in the header: '
    + ', '.join(repr(cell) for cell in cells[:16])
  )


def _json_row(line: str, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise errors.UserError(
      f'{where}: not a JSON object ({error.msg} at column {error.colno}); '
      'one whole object a line'
    ) from None
  if not isinstance(row, dict):
    raise errors.UserError(
      f'{where}: a JSON {type(row).__name__} where an object is wanted'
    )
  return row
