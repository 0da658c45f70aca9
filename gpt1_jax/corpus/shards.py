"""Writes, opens and verifies token shards on disk.

A directory of prepared data holds {train,validation}-00000-of-000NN.bin
(little-endian uint16), the files of the tokenizer, documents.jsonl and, written
last, meta.json with the counts and the sha256 of every other file. Opening and
reading cost the same for a corpus of any size; counting reads all of it.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from gpt1_jax import staging, storage
from gpt1_jax.corpus import verification
from gpt1_jax.corpus.metadata import (
  DocumentRow,
  FileMeta,
  Meta,
  Provenance,
  ShardMeta,
  SplitMeta,
)
from gpt1_jax.errors import UserError

VERSION = 1
SPLITS = ('train', 'validation')
META = 'meta.json'
DOCUMENTS = 'documents.jsonl'
DTYPE = np.dtype('<u2')
_BLOCK = 2**22  # tokens counted at a time

Splits = dict[str, SplitMeta]


class ShardWriter:
  """Writes the tokens of one split into shards of a bounded size.

  A context manager: when it exits, the shards get their final names, which
  contain the number of shards.

  Attributes:
    shards: name and size of each shard; filled when the context exits.
  """

  def __init__(self, directory: pathlib.Path, split: str, shard_tokens: int):
    self._directory = directory
    self._split = split
    self._shard_tokens = shard_tokens
    self._sizes: list[int] = []
    self._file: IO[bytes] | None = None
    self.shards: list[ShardMeta] = []

  def __enter__(self) -> 'ShardWriter':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if self._file:
      self._file.close()
    if kind is not None:
      return
    for i, size in enumerate(self._sizes):
      name = f'{self._split}-{i:05d}-of-{len(self._sizes):05d}.bin'
      os.replace(self._part(i), self._directory / name)
      self.shards.append({'name': name, 'tokens': size})

  def write(self, tokens: np.ndarray) -> None:
    """Appends uint16 tokens, which may continue in the next shard."""
    tokens = np.ascontiguousarray(tokens, DTYPE)
    while len(tokens):
      if self._file is None or self._sizes[-1] == self._shard_tokens:
        self._file = self._open_next()
      part = tokens[: self._shard_tokens - self._sizes[-1]]
      self._file.write(part.tobytes())
      self._sizes[-1] += len(part)
      tokens = tokens[len(part) :]

  def _open_next(self) -> IO[bytes]:
    if self._file:
      self._file.close()
    self._sizes.append(0)
    return self._part(len(self._sizes) - 1).open('wb')

  def _part(self, i: int) -> pathlib.Path:
    return self._directory / f'{self._split}-{i:05d}.part'


def write(
  directory: pathlib.Path,
  shard_tokens: int,
  encoded: Iterable[tuple[DocumentRow, np.ndarray]],
) -> Splits:
  """Writes the shards of both splits, and documents.jsonl.

  Args:
    directory: where to write.
    shard_tokens: maximum tokens in a shard.
    encoded: documents in order, with their uint16 tokens.
  """
  splits: Splits = {
    split: {'tokens': 0, 'bytes': 0, 'words': 0, 'documents': 0, 'shards': []}
    for split in SPLITS
  }
  with contextlib.ExitStack() as stack:
    writers = {
      split: stack.enter_context(ShardWriter(directory, split, shard_tokens))
      for split in SPLITS
    }
    file = stack.enter_context(
      (directory / DOCUMENTS).open('w', encoding='utf-8')
    )
    for row, tokens in encoded:
      file.write(row.to_line())
      if row.split in splits:
        writers[row.split].write(tokens)
        meta = splits[row.split]
        meta['tokens'] += row.tokens
        meta['bytes'] += row.num_bytes
        meta['words'] += row.words
        meta['documents'] += 1
  for split, writer in writers.items():
    splits[split]['shards'] = writer.shards
  return splits


class Tokens:
  """The tokens of one split, read across its shards.

  Attributes:
    directory, split: what was opened.
    num_tokens: tokens of the split, document boundaries included.
    num_words: words of the split.
  """

  def __init__(self, path: str | os.PathLike[str], split: str):
    """Opens a split.

    Raises:
      UserError: a shard is missing or damaged; see `verification`.
    """
    self.directory = pathlib.Path(storage.path(path))
    self.split = split
    self._meta = meta = read_meta(path)
    counts = meta['splits'][split]
    self.num_tokens, self.num_words = counts['tokens'], counts['words']
    self._shards = [self._open(meta, shard) for shard in counts['shards']]
    sizes = [shard['tokens'] for shard in counts['shards']]
    self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

  def _open(self, meta: Meta, shard: ShardMeta) -> verification.Shard:
    file = self.directory / shard['name']
    expected = shard['tokens'] * DTYPE.itemsize
    size = file.stat().st_size if file.exists() else None
    if size != expected:
      raise UserError(
        f'{file}: {"missing" if size is None else f"{size} bytes"}, '
        f'{expected} bytes expected; run prepare again'
      )
    sha256 = meta['files'][shard['name']]['sha256']
    return verification.Shard(file, sha256, meta['tokenizer']['vocab_size'])

  def read(self, start: int, count: int) -> np.ndarray:
    """Returns uint16 [count], the tokens starting at position `start`.

    Raises:
      IndexError: the range reaches outside the split.
      UserError: a shard has changed since it was opened.
    """
    if start < 0 or count < 0 or start + count > self.num_tokens:
      raise IndexError(f'{start}+{count} of {self.num_tokens} tokens')
    out = np.empty(count, DTYPE)
    done = 0
    while done < count:  # a call may read less than is asked
      i = int(np.searchsorted(self._offsets, start + done, side='right')) - 1
      first = int(start + done - self._offsets[i])
      part = self._shards[i].read(first, count - done)
      out[done : done + len(part)] = part
      done += len(part)
    return out

  def counts(self, vocab_size: int) -> np.ndarray:
    """Counts each token; returns int64 [vocab_size]."""
    counts_V = np.zeros(vocab_size, np.int64)
    for start in range(0, self.num_tokens, _BLOCK):
      tokens = self.read(start, min(_BLOCK, self.num_tokens - start))
      counts_V += np.bincount(tokens, minlength=vocab_size)
    return counts_V

  @property
  def document_ends(self) -> np.ndarray:
    """int64 [documents]: the position after each document's boundary token."""
    verification.check_file(self.directory / DOCUMENTS, self._meta)
    lengths = (
      row.tokens
      for row in read_documents(self.directory)
      if row.split == self.split
    )
    return np.cumsum(np.fromiter(lengths, np.int64))


def read_meta(path: str | os.PathLike[str]) -> Meta:
  """Reads meta.json of prepared data.

  Raises:
    UserError: it is missing, damaged, or of a different version.
  """
  file = storage.path(path) / META
  if not file.exists():
    raise UserError(
      f'{path}: no prepared shards here (no {META}); make them with '
      'python -m gpt1_jax.prepare'
    )
  meta = storage.read_json(file)
  version = meta.get('version') if isinstance(meta, dict) else None
  if version != VERSION:
    raise UserError(
      f'{file}: version {version}, this program reads {VERSION}; '
      'run prepare again'
    )
  return verification.check_meta(meta, file)


def read_documents(path: str | os.PathLike[str]) -> Iterator[DocumentRow]:
  """Reads documents.jsonl, row by row."""
  with (storage.path(path) / DOCUMENTS).open(encoding='utf-8') as file:
    for line in file:
      yield DocumentRow(**json.loads(line))


def write_meta(directory: pathlib.Path, provenance: Provenance) -> None:
  """Writes meta.json, adding the sha256 and size of every other file."""
  files: dict[str, FileMeta] = {
    file.name: verification.file_meta(file)
    for file in sorted(directory.iterdir())
  }
  meta: Meta = {**provenance, 'version': VERSION, 'files': files}
  meta['checksum'] = verification.digest(meta)
  storage.write_json(directory / META, meta)


def fetch(path: str, stage_to: str = staging.STAGE_TO) -> str:
  """Returns a local folder of prepared data: `path`, or a verified copy.

  Args:
    path: local, or in a bucket.
    stage_to: folder that holds the copies.

  Raises:
    UserError: there is no prepared data, a file is missing or differs, or the
      disk has no room.
  """
  if not storage.is_remote(path):
    return path

  def check(copy: pathlib.Path) -> None:
    try:
      verify(copy)
    except UserError as error:  # name the original
      raise UserError(str(error).replace(str(copy), path)) from None

  read_meta(path)
  return staging.fetch(path, stage_to, check)


def verify(path: str | os.PathLike[str]) -> int:
  """Checks the sha256 of every file; returns the number of files.

  Raises:
    UserError: names the first file that is missing or differs.
  """
  meta = read_meta(path)
  for name in meta['files']:
    verification.check_file(pathlib.Path(storage.path(path), name), meta)
  return len(meta['files'])
