"""Token shards on disk: write, open, verify.

A directory holds {train,validation}-00000-of-000NN.bin (little-endian uint16),
tokenizer.model or the original pair of files, documents.jsonl and, written
last, meta.json with the counts and the sha256 of every other file. Opening and
reading cost the same whatever the size of the corpus.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt1_jax import staging, storage
from gpt1_jax.errors import UserError

VERSION = 1
SPLITS = ('train', 'validation')
META = 'meta.json'
DOCUMENTS = 'documents.jsonl'
DTYPE = np.dtype('<u2')


class ShardWriter:
  """Writes one split, document by document, into shards of a bounded size.

  A context: leaving it gives the shards their final names, which say how many
  there are.

  Attributes:
    shards: name and tokens of each; complete after the context.
  """

  def __init__(
    self, directory: str | os.PathLike, split: str, shard_tokens: int
  ):
    self._directory = pathlib.Path(directory)
    self._split = split
    self._shard_tokens = shard_tokens
    self._sizes: list[int] = []
    self._file = None
    self.shards: list[dict[str, Any]] = []

  def __enter__(self) -> 'ShardWriter':
    return self

  def __exit__(self, kind: type | None, *_) -> None:
    if self._file:
      self._file.close()
    if kind is not None:
      return
    for i, size in enumerate(self._sizes):
      name = shard_name(self._split, i, len(self._sizes))
      os.replace(self._part(i), self._directory / name)
      self.shards.append({'name': name, 'tokens': size})

  def write(self, tokens: np.ndarray) -> None:
    """Appends uint16 tokens; they may run over into the next shard."""
    tokens = np.ascontiguousarray(tokens, DTYPE)
    while len(tokens):
      if self._file is None or self._sizes[-1] == self._shard_tokens:
        self._next()
      part = tokens[: self._shard_tokens - self._sizes[-1]]
      self._file.write(part.tobytes())
      self._sizes[-1] += len(part)
      tokens = tokens[len(part) :]

  def _next(self) -> None:
    if self._file:
      self._file.close()
    self._file = self._part(len(self._sizes)).open('wb')
    self._sizes.append(0)

  def _part(self, i: int) -> pathlib.Path:
    return self._directory / f'{self._split}-{i:05d}.part'


def shard_name(split: str, i: int, count: int) -> str:
  """The file of shard `i` of `count`."""
  return f'{split}-{i:05d}-of-{count:05d}.bin'


class Tokens:
  """One split, memory-mapped: random access over all its shards.

  Attributes:
    num_tokens, num_words: of the split; document tokens are tokens.
    document_ends: int64, where each document ends (its boundary token
      included), counted in tokens from the start of the split.
  """

  def __init__(self, path: str | os.PathLike, split: str):
    """Opens a split.

    Raises:
      UserError: the shards are missing, incomplete or truncated.
    """
    self._directory = pathlib.Path(path)
    meta = read_meta(path)
    facts = meta['splits'][split]
    self._split = split
    self.num_tokens, self.num_words = facts['tokens'], facts['words']
    self._maps = []
    for shard in facts['shards']:
      file = self._directory / shard['name']
      wanted = shard['tokens'] * DTYPE.itemsize
      size = file.stat().st_size if file.exists() else None
      if size != wanted:
        raise UserError(
          f'{file}: {"missing" if size is None else f"{size} bytes"}, '
          f'{wanted} bytes expected; run prepare again'
        )
      self._maps.append(np.memmap(file, DTYPE, mode='r'))
    sizes = [len(m) for m in self._maps]
    self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

  def read(self, start: int, count: int) -> np.ndarray:
    """uint16 [count], the tokens from `start` on.

    Raises:
      IndexError: they reach outside the split.
    """
    if start < 0 or count < 0 or start + count > self.num_tokens:
      raise IndexError(f'{start}+{count} of {self.num_tokens} tokens')
    out = np.empty(count, DTYPE)
    done = 0
    i = int(np.searchsorted(self._starts, start, side='right')) - 1
    while done < count:
      part = self._maps[i][start + done - self._starts[i] :][: count - done]
      out[done : done + len(part)] = part
      done += len(part)
      i += 1
    return out

  @property
  def document_ends(self) -> np.ndarray:
    counts = (
      row['tokens']
      for row in read_documents(self._directory)
      if row['split'] == self._split
    )
    return np.cumsum(np.fromiter(counts, np.int64))


def read_meta(path: str | os.PathLike) -> dict[str, Any]:
  """meta.json of prepared shards.

  Raises:
    UserError: there is none, it is damaged, or of another version.
  """
  file = storage.path(path) / META
  try:
    meta = json.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise UserError(
      f'{path}: no prepared shards here (no {META}); make them with '
      'python -m gpt1_jax.prepare'
    ) from None
  except ValueError as error:
    raise UserError(f'{file}: damaged ({error}); run prepare again') from None
  version = meta.get('version') if isinstance(meta, dict) else None
  if version != VERSION:
    raise UserError(
      f'{file}: version {version}, this program reads {VERSION}; '
      'run prepare again'
    )
  return meta


def read_documents(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
  """Rows of documents.jsonl: source, sha256, split, tokens, words.

  Split is 'train', 'validation' or 'duplicate'; of duplicates nothing is kept,
  and they count no words and tokens.
  """
  with (pathlib.Path(path) / DOCUMENTS).open(encoding='utf-8') as file:
    for line in file:
      yield json.loads(line)


def write_meta(directory: str | os.PathLike, meta: dict[str, Any]) -> None:
  """Adds version and every file's sha256 and size; writes it last."""
  directory = pathlib.Path(directory)
  files = {
    file.name: {'sha256': sha256(file), 'bytes': file.stat().st_size}
    for file in sorted(directory.iterdir())
  }
  storage.write_json(
    directory / META, {'version': VERSION, **meta, 'files': files}
  )


def fetch(path: str, stage_to: str = staging.STAGE_TO) -> str:
  """Returns a local folder of prepared shards: `path`, or a verified copy.

  Raises:
    UserError: no shards there, a file that is missing or differs, no room.
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


def verify(path: str | os.PathLike) -> int:
  """Compares every file with its size and sha256 in meta.json.

  Returns:
    How many files were checked.

  Raises:
    UserError: naming the first file that is missing or differs.
  """
  files = read_meta(path)['files']
  for name, facts in files.items():
    file = pathlib.Path(path) / name
    if not file.exists():
      raise UserError(f'{file}: missing; prepare or copy the data again')
    size = file.stat().st_size
    if size != facts['bytes']:
      raise UserError(
        f'{file}: {size} bytes, {facts["bytes"]} expected; prepare or copy the '
        'data again'
      )
    if sha256(file) != facts['sha256']:
      raise UserError(
        f'{file}: its sha256 differs; prepare or copy the data again'
      )
  return len(files)


def sha256(file: pathlib.Path) -> str:
  """Hex digest of a file, read in pieces."""
  with file.open('rb') as opened:
    return hashlib.file_digest(opened, 'sha256').hexdigest()
