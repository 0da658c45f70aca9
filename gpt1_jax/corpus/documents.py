"""Reads documents from files, TFDS or Python itself, in a stable order.

An input is a folder or glob of .txt(.gz) files (each file is a document), of
.jsonl(.gz) or .parquet files (each row is one), `tfds:NAME:SPLIT`, or
`builtin:python-reference`. Rows are read one at a time, Parquet rows by group.
"""

import dataclasses
import glob
import gzip
import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypedDict

from gpt1_jax.errors import UserError

_ENDINGS = {
  '.txt': 'text',
  '.txt.gz': 'text',
  '.jsonl': 'jsonl',
  '.jsonl.gz': 'jsonl',
  '.parquet': 'parquet',
}
_TFDS = re.compile(r'([^:]+):((?:[^:\[]|\[[^\]]*\])+)(?::([^:]+))?')
_SUPPORTED = (
  'a folder or glob of .txt, .txt.gz, .jsonl, .jsonl.gz or .parquet files, '
  'tfds:NAME[/CONFIG]:SPLIT[:FIELD], or builtin:python-reference; gs:// '
  'requires --engine=beam'
)


class Input(NamedTuple):
  """A file, or another source of documents.

  Attributes:
    kind: 'text', 'jsonl', 'parquet', 'tfds' or 'builtin'.
    name: path of a file; NAME:SPLIT of TFDS; name of a built-in corpus.
  """

  kind: str
  name: str


class InputSize(TypedDict):
  """The section `input` of meta.json: number of files and their bytes."""

  files: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Document:
  """A document with its text, or the name of the file that holds it.

  Attributes:
    source: name of the document, such as `books/emma.txt` or `a.jsonl:12`.
    content: text; None if the document is the whole file at `path`, which
      `text` reads.
    path: the file, or a copy of it.
    disk_bytes: share of its input's bytes on disk, for progress.
  """

  source: str
  content: str | None
  path: str
  disk_bytes: int

  def text(self) -> str:
    """Returns the text of the document.

    Raises:
      UserError: the file is not UTF-8, is damaged or empty.
    """
    if self.content is not None:
      return self.content
    return _decode(_read_bytes(self.path, self.source), self.source)


def find_inputs(specs: Iterable[str]) -> list[Input]:
  """Resolves --input: expands and sorts folders and globs, drops repeats.

  Raises:
    UserError: a spec has an unknown format, or matches no file.
  """
  inputs: list[Input] = []
  for spec in specs:
    scheme, colon, rest = spec.partition(':')
    is_valid = True
    if scheme == 'builtin':
      is_valid = rest == 'python-reference'
      inputs.append(Input(scheme, rest))
    elif scheme == 'tfds':
      is_valid = _TFDS.fullmatch(rest) is not None
      inputs.append(Input(scheme, rest))
    elif colon and scheme.isalnum() and not os.path.exists(spec):
      is_valid = False
    else:
      inputs += _find_files(spec)
    if not is_valid:
      raise UserError(f'--input={spec}: unknown; give {_SUPPORTED}')
  return list(dict.fromkeys(inputs))


def read_all(specs: Iterable[str], text_field: str) -> Iterator[Document]:
  """Reads the documents of all inputs, in order."""
  for found in find_inputs(specs):
    yield from read(found, found.name, text_field)


def read(found: Input, path: str, text_field: str) -> Iterator[Document]:
  """Reads the documents of one input, in order.

  Args:
    found: the input; documents and errors carry its name.
    path: the input's name, or a local copy of its file.
    text_field: field or column of a row that holds its text.
  """
  if found.kind == 'text':
    yield Document(found.name, None, path, os.path.getsize(path))
  elif found.kind == 'jsonl':
    yield from _read_jsonl(found.name, path, text_field)
  elif found.kind == 'parquet':
    yield from _read_parquet(found.name, path, text_field)
  elif found.kind == 'tfds':
    yield from _read_tfds(found.name, text_field)
  else:
    yield from _read_python_reference()


def measure(specs: Iterable[str]) -> InputSize:
  """Measures all inputs, so that a later run notices a change.

  The built-in corpus counts as one file, whose size depends on the version of
  Python. TFDS is not measured.
  """
  inputs = [found for found in find_inputs(specs) if found.kind != 'tfds']
  return {'files': len(inputs), 'bytes': sum(map(_num_bytes, inputs))}


def kind_of(name: str) -> str | None:
  """Returns the kind of a file by the ending of its name, if it has one."""
  for ending, kind in _ENDINGS.items():
    if name.endswith(ending):
      return kind
  return None


def _num_bytes(found: Input) -> int:
  if found.kind == 'builtin':
    return sum(document.disk_bytes for document in _read_python_reference())
  return os.path.getsize(found.name)


def _find_files(spec: str) -> list[Input]:
  path = pathlib.Path(spec)
  if path.exists() and not path.is_dir():
    names = [spec]
    problem = 'unknown kind of file'
  elif path.is_dir():
    names = sorted(str(p) for p in path.rglob('*') if p.is_file())
    problem = 'holds no file to read'
  else:
    names = sorted(filter(os.path.isfile, glob.glob(spec, recursive=True)))
    problem = 'no such file or folder'
  inputs = [Input(kind, name) for name in names if (kind := kind_of(name))]
  if not inputs:
    raise UserError(f'--input={spec}: {problem}; give {_SUPPORTED}')
  return inputs


def _read_bytes(path: str, name: str) -> bytes:
  try:
    with gzip.open(path) if path.endswith('.gz') else open(path, 'rb') as file:
      return file.read()
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f'{name}: damaged gzip file ({error})') from None


def _decode(data: bytes, name: str, offset: int = 0) -> str:
  """Decodes UTF-8; `offset` is the position of `data` in its file."""
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


def _read_jsonl(name: str, path: str, field: str) -> Iterator[Document]:
  number, offset, disk_before = 0, 0, 0
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
        disk_bytes = raw.tell() - disk_before
        yield _from_row(_parse_json(text, source), field, source, disk_bytes)
        disk_before += disk_bytes
      offset += len(line)
  if not offset:
    raise UserError(f'{name}: empty; remove it from the input')


def _parse_json(text: str, source: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise UserError(f'{source}: not a JSON line ({error})') from None


def _from_row(row: Any, field: str, source: str, disk_bytes: int) -> Document:
  if not isinstance(row, dict) or not isinstance(row.get(field), str):
    if isinstance(row, dict) and field in row:
      kind = type(row[field]).__name__.replace('NoneType', 'null')
      found = f'its value is {kind}'
    elif isinstance(row, dict):
      found = f'it has {", ".join(row)}'
    else:
      found = f'it is {type(row).__name__}'
    raise UserError(
      f'{source}: no text in field {field!r} ({found}); see --text_field'
    )
  return Document(source, row[field], '', disk_bytes)


def _read_parquet(name: str, path: str, field: str) -> Iterator[Document]:
  import pyarrow  # imported here: slow to import and rarely needed
  from pyarrow import parquet

  try:
    with parquet.ParquetFile(path) as file:
      columns = file.schema_arrow.names
      if field not in columns:
        raise UserError(
          f'{name}: no column {field!r} (it has {", ".join(columns)}); see '
          '--text_field'
        )
      number, num_rows = 0, file.metadata.num_rows
      disk_bytes = os.path.getsize(path) // max(num_rows, 1)
      for batch in file.iter_batches(batch_size=64, columns=[field]):
        for text in batch.column(0).to_pylist():
          number += 1
          yield _from_row({field: text}, field, f'{name}:{number}', disk_bytes)
      if not number:
        raise UserError(f'{name}: empty; remove it from the input')
  except pyarrow.ArrowException as error:
    raise UserError(f'{name}: not a readable Parquet file ({error})') from None


def _read_tfds(name: str, field: str) -> Iterator[Document]:
  import tensorflow_datasets as tfds  # imported here: slow to import

  match = _TFDS.fullmatch(name)
  assert match, name  # find_inputs checked it
  dataset, split, named_field = match.groups()
  field = named_field or field
  try:
    builder = tfds.builder(dataset, file_format='array_record')
    builder.download_and_prepare(file_format='array_record')
    rows = builder.as_data_source(split=split)
  except Exception as error:  # TFDS raises errors of many libraries
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(f'tfds:{name}: cannot be read ({first})') from None
  for number, row in enumerate(rows):
    source = f'tfds:{name}#{number}'
    if isinstance(row, dict) and isinstance(row.get(field), bytes):
      row = {**row, field: _decode(row[field], source)}
    yield _from_row(row, field, source, 0)


def _read_python_reference() -> Iterator[Document]:
  from pydoc_data import topics  # prose that every CPython carries

  for name, text in sorted(topics.topics.items()):
    source = f'builtin:python-reference#{name}'
    yield Document(source, text, '', len(text))
