"""Checks meta.json and the shards of prepared data when they are opened.

A shard is read in full once; ~/.cache/gpt1_jax/verified records the result
until the file changes.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic

from gpt1_jax import mistakes, storage
from gpt1_jax.corpus.metadata import FileMeta, Meta
from gpt1_jax.errors import UserError

_CACHE = '~/.cache/gpt1_jax/verified'
_DTYPE = np.dtype('<u2')  # of the tokens in a shard
_CHUNK = 1 << 23  # tokens to read at once
_META = pydantic.TypeAdapter(Meta)


def check_meta(content: Any, file: storage.Path) -> Meta:
  """Returns the content of meta.json if it has the right keys and types.

  Raises:
    UserError: it differs; the message names the first difference.
  """
  try:
    _META.validate_python(content, strict=True)
  except pydantic.ValidationError as error:
    raise _damaged(file, mistakes.first(error)) from None
  meta: Meta = content
  for split in ('train', 'validation'):
    if split not in meta['splits']:
      raise _damaged(file, f'splits.{split} is missing')
    counts = meta['splits'][split]
    if counts['tokens'] != sum(shard['tokens'] for shard in counts['shards']):
      raise _damaged(file, f'splits.{split}: not the sum of its shards')
    for shard in counts['shards']:
      if shard['name'] not in meta['files'] or shard['tokens'] < 0:
        raise _damaged(file, f'splits.{split}.shards: {shard["name"]}')
  if meta.get('checksum', expected := digest(meta)) != expected:
    raise _damaged(file, 'its checksum differs')
  return meta


def digest(content: Mapping[str, object]) -> str:
  """Returns the sha256 of a JSON object, without its key `checksum`, hex."""
  others = {key: value for key, value in content.items() if key != 'checksum'}
  return hashlib.sha256(storage.to_json(others).encode()).hexdigest()


def _damaged(file: storage.Path, what: str) -> UserError:
  return UserError(f'{file}: damaged ({what}); run prepare again')


def fingerprint(meta: Meta) -> str:
  """Returns a sha256 that identifies the tokens of prepared data, hex."""
  sums = {
    name: file['sha256']
    for name, file in sorted(meta['files'].items())
    if name.endswith('.bin')
  }
  return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


class Shard:
  """An open shard, checked; notices when its content changes.

  Reads with system calls: of a file mapped into memory, a truncation or an
  error of the disk would kill the process with SIGBUS.
  """

  def __init__(self, file: pathlib.Path, sha256: str, vocab_size: int):
    """Opens a shard; checks its sha256 and that its ids are in the vocabulary.

    Raises:
      UserError: they differ from meta.json.
    """
    self._file, self._sha256, self._vocab_size = file, sha256, vocab_size
    self._opened = os.open(file, os.O_RDONLY)
    weakref.finalize(self, os.close, self._opened)
    self._state = self._stat()
    self._check()

  def read(self, start: int, count: int) -> np.ndarray:
    """Reads up to `count` tokens.

    Raises:
      UserError: the file has been overwritten.
    """
    size, place = _DTYPE.itemsize * count, _DTYPE.itemsize * start
    while True:
      with storage.naming(self._file):
        found = os.pread(self._opened, size, place)
      state = self._stat()
      if state == self._state:
        return np.frombuffer(found, _DTYPE)
      self._check()
      self._state = state  # and read what was checked

  def _stat(self) -> tuple[int, int]:
    state = os.fstat(self._opened)
    return state.st_size, state.st_mtime_ns

  def _check(self) -> None:
    note = f'{_CACHE}/{self._identity()}'
    with contextlib.suppress(UserError, OSError, ValueError, TypeError):
      found, highest = storage.read_json(note)
      if found == self._sha256 and highest < self._vocab_size:
        return
    found, highest = _read(self._opened)  # a note may be damaged
    with contextlib.suppress(UserError, OSError):  # else it is read again
      storage.write_json(note, [found, highest])
    _compare(self._file, found, self._sha256)
    if highest >= self._vocab_size:
      raise UserError(
        f'{self._file}: holds token id {highest}, but the vocabulary of '
        f'meta.json has {self._vocab_size}; prepare or copy the data again'
      )

  def _identity(self) -> str:
    """Returns the name of the shard's note; it changes when the file does."""
    state = os.fstat(self._opened)
    values = (
      str(self._file.resolve()),
      state.st_size,
      state.st_ino,
      state.st_mtime_ns,
      state.st_ctime_ns,
    )
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def check_file(file: pathlib.Path, meta: Meta) -> None:
  """Checks the size and the sha256 of a file of prepared data.

  Raises:
    UserError: it is missing, or differs from meta.json.
  """
  if not file.is_file() or file.name not in meta['files']:
    raise UserError(f'{file}: missing; prepare or copy the data again')
  found, expected = file_meta(file), meta['files'][file.name]
  if found['bytes'] != expected['bytes']:
    raise UserError(
      f'{file}: {found["bytes"]} bytes, {expected["bytes"]} expected; prepare '
      'or copy the data again'
    )
  _compare(file, found['sha256'], expected['sha256'])


def file_meta(file: pathlib.Path) -> FileMeta:
  """Returns the sha256 and the size of a file, as meta.json holds them."""
  return {'sha256': _read(file)[0], 'bytes': file.stat().st_size}


def _compare(file: pathlib.Path, found: str, sha256: str) -> None:
  if found != sha256:
    raise UserError(
      f'{file}: its sha256 differs from meta.json: damaged, or from other '
      'prepared data; prepare or copy the data again'
    )


def _read(file: pathlib.Path | int) -> tuple[str, int]:
  """Returns the sha256 and the highest id of a shard; -1 if it is empty.

  Args:
    file: a path, or the descriptor of an open file.
  """
  digest, highest = hashlib.sha256(), -1
  with open(file, 'rb', closefd=not isinstance(file, int)) as opened:
    opened.seek(0)
    while chunk := opened.read(2 * _CHUNK):
      digest.update(chunk)
      ids = np.frombuffer(chunk, _DTYPE, len(chunk) // 2)
      highest = max(highest, int(ids.max(initial=0)))
  return digest.hexdigest(), highest
