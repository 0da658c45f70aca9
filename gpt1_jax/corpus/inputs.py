"""Finds the files and other sources that --input names, in a stable order.

An input is a folder, a glob or a file of text (each file is a document), JSON
lines or Parquet (each row is one); `tfds:NAME:SPLIT`; `hf:NAME:SPLIT`; or
`builtin:python-reference`. Names that start with a dot, and `__MACOSX`, are
skipped. Linked folders are followed, each folder once.
"""

import glob
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from typing_extensions import TypedDict

from gpt1_jax import storage
from gpt1_jax.corpus import cleaning
from gpt1_jax.errors import UserError

_KINDS = {'.txt': 'text', '.jsonl': 'jsonl', '.parquet': 'parquet'}
_PACKED = ('', '.gz', '.zst')
_ENDINGS = {
  ending + packed: kind
  for ending, kind in _KINDS.items()
  for packed in _PACKED[: 1 if kind == 'parquet' else 3]
}
_HEADER = 2**16  # bytes that may precede the text of a book
_ZSTD = b'\x28\xb5\x2f\xfd'  # the first bytes of each .zst file
# NAME, SPLIT and FIELD of `tfds:` and `hf:`; a split may have a [slice].
DATASET = re.compile(r'([^:]+):((?:[^:\[]|\[[^\]]*\])+)(?::([^:]+))?')
_SUPPORTED = (
  'a folder or glob of .txt, .jsonl (either also .gz or .zst) or .parquet '
  'files, tfds:NAME[/CONFIG]:SPLIT[:FIELD], hf:NAME[/CONFIG]:SPLIT[:FIELD], or '
  'builtin:python-reference; gs:// requires --engine=beam'
)


class Input(NamedTuple):
  """A file, or another source of documents.

  Attributes:
    kind: 'text', 'jsonl', 'parquet', 'tfds', 'hf' or 'builtin'.
    name: path of a file; NAME:SPLIT of a data set; name of a built-in corpus.
    span: where the document begins and ends, as fractions of a text file; a
      corpus of a single file is cut in two.
  """

  kind: str
  name: str
  span: tuple[float, float] = (0.0, 1.0)

  @property
  def source(self) -> str:
    """Name of the document in a text file, or in a part of it."""
    if self.span == (0.0, 1.0):
      return self.name
    return f'{self.name}#{"validation" if self.span[0] else "train"}'


class InputSize(TypedDict):
  """The `input` section of meta.json.

  The sha256 covers the names and contents of all files.
  """

  files: int
  bytes: int
  sha256: str


def find(specs: Iterable[str]) -> list[Input]:
  """Resolves --input: expands and sorts folders and globs, drops repeats.

  Raises:
    UserError: a spec has an unknown format, or matches no file or one whose
      name is not UTF-8.
  """
  inputs: list[Input] = []
  for spec in specs:
    scheme, colon, rest = spec.partition(':')
    if spec == 'builtin:python-reference' or (
      scheme in ('tfds', 'hf') and DATASET.fullmatch(rest)
    ):
      inputs.append(Input(scheme, rest))
    elif colon and scheme.isalnum() and not os.path.exists(spec):
      raise UserError(f'--input={spec}: unknown; give {_SUPPORTED}')
    else:
      inputs += _find_files(spec)
  for found in inputs:
    storage.check_utf8(found.name)  # documents.jsonl holds it
  return list(dict.fromkeys(inputs))


def unread(specs: Iterable[str]) -> list[str]:
  """Returns the files in --input's folders that `find` skips."""
  folders = filter(os.path.isdir, specs)
  names = (name for folder in folders for name in _walk(folder))
  return [name for name in names if not _is_document(name)]


def of_gutenberg(specs: Iterable[str]) -> list[str]:
  """Returns the text files that begin with Project Gutenberg's header."""
  names = []
  for found in find(specs):
    if found.kind == 'text' and found.name.lower().endswith('.txt'):
      with open(found.name, 'rb') as file:
        head = file.read(_HEADER)
      if cleaning.has_gutenberg(head.decode(errors='ignore')):
        names.append(found.name)
  return names


def measure(specs: Iterable[str]) -> InputSize:
  """Measures and hashes all files, so that a later run notices a change.

  The built-in corpus counts as one file, which depends on the version of
  Python. TFDS and Hugging Face data sets are not measured.
  """
  total = hashlib.sha256()
  num_files = num_bytes = 0
  for found in find(specs):
    if found.kind in ('tfds', 'hf'):
      continue
    if found.kind == 'builtin':
      content = ''.join(text for _, text in python_reference()).encode()
      size, digest = len(content), hashlib.sha256(content)
    else:
      with open(found.name, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256')
        size = file.tell()
    total.update(f'{found.name}\0{digest.hexdigest()}\n'.encode())
    num_files += 1
    num_bytes += size
  return {'files': num_files, 'bytes': num_bytes, 'sha256': total.hexdigest()}


def kind_of(name: str) -> str | None:
  """Returns a file's kind from its extension; None if unknown."""
  for ending, kind in _ENDINGS.items():
    if name.lower().endswith(ending):
      return kind
  return None


def python_reference() -> list[tuple[str, str]]:
  """Returns names and texts of the help topics that ship with CPython."""
  from pydoc_data import topics

  return sorted(topics.topics.items())


def _is_document(name: str) -> bool:
  """Returns True if `find` reads this file of a folder."""
  if kind_of(name) is None or not os.path.isfile(name):
    return False
  if not name.lower().endswith('.zst'):
    return True
  with open(name, 'rb') as file:  # other programs use this ending too
    return file.read(len(_ZSTD)) == _ZSTD


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name == '__MACOSX'


def _walk(top: str) -> Iterator[str]:
  """Yields the paths of all files below a folder, sorted."""
  seen: set[str] = set()
  found: list[str] = []
  for folder, below, names in os.walk(top, followlinks=True):
    real = os.path.realpath(folder)
    if real in seen:
      below.clear()
      continue
    seen.add(real)
    # Real folders before links: a folder is listed under its own path.
    below[:] = sorted(
      (name for name in below if not _is_hidden(name)),
      key=lambda name: (os.path.islink(os.path.join(folder, name)), name),
    )
    found += [
      str(pathlib.Path(folder, name)) for name in names if not _is_hidden(name)
    ]
  yield from sorted(found)


def _find_files(spec: str) -> list[Input]:
  names: Iterable[str]
  if os.path.isdir(spec):
    names, problem = filter(_is_document, _walk(spec)), 'holds no file to read'
  elif os.path.exists(spec):
    names, problem = [spec], 'not a file of a known kind'
  else:
    names = sorted(glob.glob(spec, recursive=True))
    names = [x for x in names if '__MACOSX' not in x or '__MACOSX' in spec]
    problem = 'no such file or folder'
  inputs = [
    Input(kind, name)
    for name in names
    if os.path.isfile(name) and (kind := kind_of(name))
  ]
  if not inputs:
    raise UserError(f'--input={spec}: {problem}; give {_SUPPORTED}')
  return inputs
