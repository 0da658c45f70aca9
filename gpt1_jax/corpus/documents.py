"""Reads the documents of an input, in order.

Rows are read one at a time, Parquet rows by group. A document holds at most
`MAX_BYTES` of text. A row without usable text becomes a document that raises
when its text is asked for, so that the caller can reject it and continue.
"""

import contextlib
import dataclasses
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, cast

from gpt1_jax.corpus import inputs, json_rows
from gpt1_jax.errors import UserError, first_line

MAX_BYTES = 100_000_000  # of one document, unpacked


@dataclasses.dataclass(frozen=True)
class Document:
  """A document with its text, or the name of the file that holds it.

  Attributes:
    source: name of the document, such as `books/emma.txt` or `a.jsonl:12`.
    content: text; None if the document is (a part of) the file at `path`, which
      `text` reads.
    path: the file, or a copy of it.
    disk_bytes: its size on disk, for progress.
    span: where the document begins and ends, as fractions of the file's text.
    problem: why the document has no text, or ''.
  """

  source: str
  content: str | None
  path: str = ''
  disk_bytes: int = 0
  span: tuple[float, float] = (0.0, 1.0)
  problem: str = ''

  def text(self) -> str:
    """Returns the text of the document.

    Raises:
      UserError: the row has none; the file is not UTF-8, is damaged or empty.
    """
    if self.problem:
      raise UserError(self.problem)
    if self.content is not None:
      return self.content
    with _open(self.path, self.source) as (_, file):
      data = file.read(MAX_BYTES + 1)
    _check_size(len(data), self.source)
    text = _decode(data, self.source)
    begin, end = (_paragraph_break(text, share) for share in self.span)
    return text[begin:end]


def read_all(
  found: Iterable[inputs.Input], text_field: str
) -> Iterator[Document]:
  """Reads the documents of all inputs, in order."""
  for each in found:
    yield from read(each, each.name, text_field)


def read(found: inputs.Input, path: str, text_field: str) -> Iterator[Document]:
  """Reads the documents of one input, in order.

  Args:
    found: the input; documents and errors carry its name.
    path: the input's name, or a local copy of its file.
    text_field: field or column of a row that holds its text.

  Raises:
    UserError: a document is damaged, malformed or too long.
  """
  if found.kind == 'text':
    size = int(os.path.getsize(path) * (found.span[1] - found.span[0]))
    yield Document(found.source, None, path, size, found.span)
  elif found.kind == 'builtin':
    for name, text in inputs.python_reference():
      source = f'builtin:{found.name}#{name}'
      yield Document(source, text, '', len(text.encode()))
  elif found.kind == 'jsonl':
    yield from _read_jsonl(found.name, path, text_field)
  elif found.kind == 'parquet':
    yield from _read_parquet(found.name, path, text_field)
  else:
    yield from _read_dataset(found, text_field)


@contextlib.contextmanager
def _open(path: str, name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
  """Yields the file and its content, unpacked as its extension says.

  Raises:
    UserError: the packed file is damaged.
  """
  with open(path, 'rb') as raw:
    try:
      if path.lower().endswith('.gz'):
        yield raw, cast(IO[bytes], gzip.GzipFile(fileobj=raw))
      elif path.lower().endswith('.zst'):
        import pyarrow  # slow to import and rarely needed

        unpacked = pyarrow.CompressedInputStream(raw, 'zstd')
        yield raw, io.BufferedReader(unpacked)
      else:
        yield raw, raw
    except (EOFError, OSError, zlib.error) as error:
      if isinstance(error, OSError) and error.errno:
        raise
      raise UserError(f'{name}: damaged file ({error})') from None


def _check_size(num_bytes: int, source: str) -> None:
  if num_bytes > MAX_BYTES:
    raise UserError(
      f'{source}: more than {MAX_BYTES:,} bytes of text in one document; cut '
      'it into several'
    )


def _decode(data: bytes, name: str, offset: int = 0) -> str:
  """Decodes UTF-8; `offset` is the position of `data` in its file."""
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    # `error.object` lacks a byte order mark.
    offset += len(data) - len(error.object) + error.start
    raise UserError(
      f'{name}: not UTF-8 at byte {offset} '
      f'(0x{error.object[error.start]:02x}); convert the file to UTF-8 first'
    ) from None
  if not text or text.isspace():
    raise UserError(f'{name}: empty; remove it from the input')
  return text


def _paragraph_break(text: str, share: float) -> int:
  """Returns the last end of a paragraph, line or word before a position."""
  position = int(share * len(text))
  if 0 < position < len(text):
    for mark in ('\n\n', '\n', ' '):
      found = text.rfind(mark, 0, position)
      if found > 0:
        return found + len(mark)
  return position


def _read_jsonl(name: str, path: str, field: str) -> Iterator[Document]:
  number, offset, disk_before = 0, 0, 0
  with _open(path, name) as (raw, file):
    while line := file.readline(MAX_BYTES + 1):
      number += 1
      source = f'{name}:{number}'
      _check_size(len(line), source)
      if line.strip():
        disk_bytes = raw.tell() - disk_before
        disk_before += disk_bytes
        try:
          row = json_rows.parse(_decode(line, source, offset))
        except UserError as error:
          yield _rejected(source, str(error), disk_bytes)
        except (ValueError, RecursionError) as error:
          problem = f'{source}: not a JSON line ({error})'
          yield _rejected(source, problem, disk_bytes)
        else:
          yield _from_row(row, field, source, disk_bytes)
      offset += len(line)
  if not offset:
    raise UserError(f'{name}: empty; remove it from the input')


def _rejected(source: str, problem: str, disk_bytes: int) -> Document:
  return Document(source, None, '', disk_bytes, problem=problem)


def _from_row(row: Any, field: str, source: str, disk_bytes: int) -> Document:
  """Returns the document in a row, whose text is a string or UTF-8 bytes."""
  if not isinstance(row, Mapping) or field not in row:
    have = _listed(row) if isinstance(row, Mapping) else type(row).__name__
    problem = f'no text in field {field!r} (it has {have}); see --text_field'
    return _rejected(source, f'{source}: {problem}', disk_bytes)
  text = row[field]
  if isinstance(text, bytes):
    try:
      text = _decode(text, source)
    except UserError as error:
      return _rejected(source, str(error), disk_bytes)
  if not isinstance(text, str):
    kind = 'null' if text is None else type(text).__name__
    problem = f'field {field!r} holds {kind}, not text; see --text_field'
    return _rejected(source, f'{source}: {problem}', disk_bytes)
  _check_size(len(text), source)
  return Document(source, text, '', disk_bytes)


def _listed(names: Iterable[str]) -> str:
  """Joins the first names for a one-line message."""
  return ', '.join(repr(x)[1:-1][:60] for x in itertools.islice(names, 16))


def _read_parquet(name: str, path: str, field: str) -> Iterator[Document]:
  import pyarrow  # slow to import and rarely needed
  from pyarrow import parquet

  number = 0
  try:
    with parquet.ParquetFile(path) as file:
      columns = file.schema_arrow.names
      if field not in columns:
        raise UserError(
          f'{name}: no column {field!r} (it has {_listed(columns)}); see '
          '--text_field'
        )
      disk_bytes = os.path.getsize(path) // max(file.metadata.num_rows, 1)
      for batch in file.iter_batches(batch_size=64, columns=[field]):
        column = batch.column(0)
        if pyarrow.types.is_string(column.type):
          column = column.cast(pyarrow.binary())  # we check UTF-8
        for text in column.to_pylist():
          number += 1
          yield _from_row({field: text}, field, f'{name}:{number}', disk_bytes)
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    if isinstance(error, OSError) and error.errno:
      raise
    raise UserError(
      f'{name}: not a readable Parquet file ({first_line(error)})'
    ) from None
  if not number:
    raise UserError(f'{name}: empty; remove it from the input')


def _read_dataset(found: inputs.Input, field: str) -> Iterator[Document]:
  """Reads the rows of a TFDS or Hugging Face data set."""
  match = inputs.DATASET.fullmatch(found.name)
  assert match, found.name  # inputs.find checked it
  name, split, named_field = match.groups()
  try:
    rows = (_load_tfds if found.kind == 'tfds' else _load_hf)(name, split)
  except Exception as error:  # both raise the errors of many libraries
    first = first_line(error)
    if isinstance(error, ImportError) and found.kind == 'hf':
      first += "; pip install 'gpt1_jax[hf]'"
    raise UserError(
      f'{found.kind}:{found.name}: cannot be read ({first})'
    ) from None
  for number, row in enumerate(rows):
    source = f'{found.kind}:{found.name}#{number}'
    yield _from_row(row, named_field or field, source, 0)


def _load_tfds(name: str, split: str) -> Iterable[Any]:
  import tensorflow_datasets as tfds  # slow to import

  builder = tfds.builder(name, file_format='array_record')
  builder.download_and_prepare(file_format='array_record')
  return builder.as_data_source(split=split)


def _load_hf(name: str, split: str) -> Iterable[Any]:
  """Loads a data set of the Hugging Face hub, or of a folder.

  A configuration is the third part of a name on the hub, or follows the name of
  a folder.
  """
  import datasets  # slow to import

  path, _, config = name.rpartition('/')
  if os.path.isdir(name) or not (os.path.isdir(path) or path.count('/') == 1):
    path, config = name, ''
  return datasets.load_dataset(path, config or None, split=split)
