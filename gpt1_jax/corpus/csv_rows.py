"""Reads comma-separated values."""

import csv
from collections.abc import Iterable, Iterator

from gpt1_jax.errors import UserError

MAX_CELL = 2**24  # characters; csv itself stops at 2**17
BARE_CR = (
  'a line ends in a carriage return (CR) alone; save the file with LF or CRLF '
  'at the ends of lines'
)


def read(
  lines: Iterable[str], name: object, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
  """Yields (line on which the row begins, cells); skips empty rows.

  Args:
    lines: the lines of a file, with their ends.
    name: the file, for messages.
    strict: False reads what is quoted badly as well as it can.

  Raises:
    UserError: the rows cannot be read, or a cell is longer than `MAX_CELL`.
  """
  csv.field_size_limit(MAX_CELL)
  # Without skipinitialspace, the quotes in `a, "b"` would belong to the text.
  reader = csv.reader(lines, strict=strict, skipinitialspace=True)
  first = 1
  try:
    for cells in reader:
      if any(cells):
        yield first, cells
      first = reader.line_num + 1
  except csv.Error as error:
    problem = f'not comma-separated values ({error})'
    if 'new-line character' in str(error):
      problem = BARE_CR
    elif 'field limit' in str(error):
      problem = (
        f'a cell of more than {MAX_CELL:,} characters; close its quote, or '
        'split the text'
      )
    raise UserError(f'{name}:{first}: {problem}') from None
