"""Documents from wherever they lie, in a stable order, with their source.

An input is a folder or a glob of .txt(.gz) files (one file, one document), a
.jsonl(.gz) or .parquet file (one row, one document), `tfds:NAME:SPLIT`, or
`builtin:python-reference`. Rows are read one at a time, Parquet by row group.
"""

import dataclasses
import glob
import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

from gpt1_jax.errors import UserError

_TEXT = ('.txt', '.txt.gz')
_JSONL = ('.jsonl', '.jsonl.gz')
_PARQUET = ('.parquet',)
_TFDS = re.compile(r'([^:]+):((?:[^:\[]|\[[^\]]*\])+)(?::([^:]+))?')
_FORMS = (
  'a folder or glob of .txt, .txt.gz, .jsonl, .jsonl.gz or .parquet files, '
  'tfds:NAME[/CONFIG]:SPLIT[:FIELD], or builtin:python-reference'
)


@dataclasses.dataclass(frozen=True)
class Document:
  """A document, or the file that is one.

  Attributes:
    source: where it came from, such as `books/emma.txt` or `a.jsonl:12`.
    content: its text; None: it is the whole file at `path`, and is read where
      it is wanted (`text`).
    path: of the file, or of a copy of it.
    disk: bytes of the input it takes up, for progress; those of all documents
      are `total_bytes`.
  """

  source: str
  content: str | None
  path: str
  disk: int

  def text(self) -> str:
    """The text of the document.

    Raises:
      UserError: the file is not UTF-8, is damaged or empty.
    """
    if self.content is not None:
      return self.content
    return _decode(_read_bytes(self.path, self.source), self.source)


def inputs(specs: list[str]) -> list[tuple[str, str]]:
  """(kind, where) of each input, files expanded and sorted.

  Kind is 'text', 'jsonl', 'parquet', 'tfds' or 'builtin'.

  Raises:
    UserError: an input is of no known form, or matches no file.
  """
  out: list[tuple[str, str]] = []
  for spec in specs:
    scheme, colon, rest = spec.partition(':')
    if scheme == 'builtin':
      if rest != 'python-reference':
        raise UserError(f'--input={spec}: builtin:python-reference is all')
      out.append((scheme, rest))
    elif scheme == 'tfds':
      if not _TFDS.fullmatch(rest):
        raise UserError(f'--input={spec}: tfds:NAME[/CONFIG]:SPLIT[:FIELD]')
      out.append((scheme, rest))
    elif colon and scheme.isalnum() and not os.path.exists(spec):
      raise UserError(
        f'--input={spec}: unknown scheme {scheme}:; give {_FORMS}'
      )
    else:
      out += _files(spec)
  return list(dict.fromkeys(out))


def documents(specs: list[str], text_field: str) -> Iterator[Document]:
  """Documents of all inputs, in order; see the module for their forms."""
  for kind, where in inputs(specs):
    yield from read(kind, where, where, text_field)


def read(
  kind: str, where: str, path: str, text_field: str
) -> Iterator[Document]:
  """Documents of one input, in order.

  Args:
    kind: as `inputs` has it.
    where: as `inputs` has it; documents and errors are named after it.
    path: `where`, or a copy of that file, to be read in its stead.
    text_field: field or column of a row that holds its text.
  """
  if kind == 'text':
    yield Document(where, None, path, os.path.getsize(path))
  elif kind == 'jsonl':
    yield from _jsonl(where, path, text_field)
  elif kind == 'parquet':
    yield from _parquet(where, path, text_field)
  elif kind == 'tfds':
    yield from _tfds(where, text_field)
  else:
    yield from _python_reference()


def total_bytes(specs: list[str]) -> int | None:
  """Bytes of all inputs as they lie on disk; None where TFDS is among them."""
  found = inputs(specs)
  if any(kind == 'tfds' for kind, _ in found):
    return None
  return sum(_bytes(*one) for one in found)


def measure(specs: list[str]) -> dict[str, int]:
  """Files of all inputs and their bytes, to see that an input has changed.

  What Python carries is a file too, another one in every version of it; what
  TFDS holds is not measured.
  """
  found = [(kind, where) for kind, where in inputs(specs) if kind != 'tfds']
  return {'files': len(found), 'bytes': sum(_bytes(*one) for one in found)}


def _bytes(kind: str, where: str) -> int:
  if kind == 'builtin':
    return sum(document.disk for document in _python_reference())
  return os.path.getsize(where)


def _files(spec: str) -> list[tuple[str, str]]:
  path = pathlib.Path(spec)
  if path.is_dir():
    found = (p for p in path.rglob('*') if kind_of(str(p)) and p.is_file())
    names = sorted(map(str, found))
    if not names:
      raise UserError(f'--input={spec}: holds no file to read; give {_FORMS}')
  elif path.exists():
    if not kind_of(spec):
      raise UserError(f'--input={spec}: unknown kind of file; give {_FORMS}')
    names = [spec]
  else:
    found = glob.glob(spec, recursive=True)
    names = sorted(n for n in found if kind_of(n) and os.path.isfile(n))
  if not names:
    raise UserError(f'--input={spec}: no such file or folder; give {_FORMS}')
  return [(kind_of(name), name) for name in names]


def kind_of(name: str) -> str:
  """'text', 'jsonl' or 'parquet' by the name of a file; else ''."""
  for kind, endings in (
    ('text', _TEXT),
    ('jsonl', _JSONL),
    ('parquet', _PARQUET),
  ):
    if name.endswith(endings):
      return kind
  return ''


def _read_bytes(path: str, name: str) -> bytes:
  try:
    with gzip.open(path) if path.endswith('.gz') else open(path, 'rb') as file:
      return file.read()
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f'{name}: damaged gzip file ({error})') from None


def _decode(data: bytes, name: str, offset: int = 0) -> str:
  try:
    text = data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{name}: not UTF-8 at byte {offset + error.start} '
      f'(0x{data[error.start]:02x}); convert the file to UTF-8 first'
    ) from None
  if not text.strip():
    raise UserError(f'{name}: empty; remove it from the input')
  return text


def _jsonl(name: str, path: str, field: str) -> Iterator[Document]:
  number, offset, before = 0, 0, 0
  with (
    open(path, 'rb') as raw,
    gzip.open(raw) if path.endswith('.gz') else raw as file,
  ):
    while True:
      try:
        line = file.readline()
      except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f'{name}: damaged gzip file ({error})') from None
      if not line:
        break
      number += 1
      source = f'{name}:{number}'
      if line.strip():
        text = _decode(line, source, offset)
        disk = raw.tell() - before
        yield _row(_json(text, source), field, source, disk)
        before += disk
      offset += len(line)
  if not offset:
    raise UserError(f'{name}: empty; remove it from the input')


def _json(text: str, source: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise UserError(f'{source}: not a JSON line ({error})') from None


def _row(row: Any, field: str, source: str, disk: int) -> Document:
  if not isinstance(row, dict) or not isinstance(row.get(field), str):
    have = ', '.join(row) if isinstance(row, dict) else type(row).__name__
    raise UserError(
      f'{source}: no text in field {field!r} (it has {have}); see --text_field'
    )
  return Document(source, row[field], '', disk)


def _parquet(name: str, path: str, field: str) -> Iterator[Document]:
  import pyarrow  # as heavy as the rest together, and seldom needed
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      columns = file.schema_arrow.names
      if field not in columns:
        raise UserError(
          f'{name}: no column {field!r} (it has {", ".join(columns)}); see '
          '--text_field'
        )
      number, rows = 0, file.metadata.num_rows
      disk = os.path.getsize(path) // max(rows, 1)
      for batch in file.iter_batches(batch_size=64, columns=[field]):
        for text in batch.column(0).to_pylist():
          number += 1
          yield _row({field: text}, field, f'{name}:{number}', disk)
      if not number:
        raise UserError(f'{name}: empty; remove it from the input')
  except pyarrow.ArrowException as error:
    raise UserError(f'{name}: not a readable Parquet file ({error})') from None


def _tfds(where: str, field: str) -> Iterator[Document]:
  import tensorflow_datasets as tfds  # slow to import

  name, split, named = _TFDS.fullmatch(where).groups()
  field = named or field
  try:
    builder = tfds.builder(name, file_format='array_record')
    builder.download_and_prepare(file_format='array_record')
    source = builder.as_data_source(split=split)
  except Exception as error:  # TFDS raises its own and everybody's
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f'tfds:{where}: cannot be read ({first})') from None
  for number, row in enumerate(source):
    name = f'tfds:{where}#{number}'
    if isinstance(row, dict) and isinstance(row.get(field), bytes):
      row = {**row, field: _decode(row[field], name)}
    yield _row(row, field, name, 0)


def _python_reference() -> Iterator[Document]:
  from pydoc_data import topics  # prose that every CPython carries

  for name, text in sorted(topics.topics.items()):
    source = f'builtin:python-reference#{name}'
    yield Document(source, text, '', len(text))
