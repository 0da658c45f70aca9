"""Reads malformed documents, tokenizers and shards; see malformed.py.

A reader takes a random generator, writes a malformed input and reads it. It
returns if the input is accepted with the right value. It raises `UserError` if
it is refused, and `WrongError` if it is accepted with a wrong value.
"""

import contextlib
import dataclasses
import gzip
import json
import pathlib
import random
from collections.abc import Callable, Iterator

import checkout  # noqa: F401
import pyarrow
from mutations import mutate, mutate_json
from pyarrow import parquet

from gpt1_jax.corpus import (
  cleaning,
  documents,
  inputs,
  json_rows,
  shards,
  tokenization,
)
from gpt1_jax.errors import UserError
from gpt1_jax.train import belonging

Rng = random.Random
Reader = Callable[[Rng], None]
Entry = tuple[str, float, Reader]  # name, thousands of inputs, reader

_TEXT = (
  '\ufeffCHAPTER I.\n\nIt was a dark & stormy night; “so be it”, she said.\n'
  'Caf\u00e9 na\u00efve \u2014 \u00c9cole 12,345.\n\n\tThe end\u2026\n'
)
_ROWS = ''.join(
  json.dumps({'text': f'{_TEXT}{n}', 'id': n, 'more': {'a': [1, None]}}) + '\n'
  for n in range(4)
)


class WrongError(Exception):
  """Raised if an input was accepted with a wrong value."""


@contextlib.contextmanager
def changed(file: pathlib.Path, content: bytes | None) -> Iterator[None]:
  """Replaces the content of a file within the context; None deletes it."""
  kept = file.read_bytes()
  if content is None:
    file.unlink()
  else:
    file.write_bytes(content)
  try:
    yield
  finally:
    file.write_bytes(kept)


def expect(is_right: bool, what: str) -> None:
  """Raises WrongError unless a value is right."""
  if not is_right:
    raise WrongError(what)


def _zstd(content: bytes) -> bytes:
  packed = pyarrow.BufferOutputStream()
  with pyarrow.CompressedOutputStream(packed, 'zstd') as stream:
    stream.write(content)
  return packed.getvalue().to_pybytes()


_PACK: dict[str, Callable[[bytes], bytes]] = {
  '': bytes,
  '.gz': lambda content: gzip.compress(content, 1),
  '.zst': _zstd,
}


def document_readers(top: pathlib.Path) -> Iterator[Entry]:
  """Yields (name, share of the trials, reader) for each kind of document."""
  for kind, seed in (('txt', _TEXT), ('jsonl', _ROWS)):
    for packed, pack in _PACK.items():
      reader = _Documents(top / f'x.{kind}{packed}', seed.encode(), pack)
      yield f'.{kind}{packed}', 8 if not packed else 4, reader
  file = top / 'x.parquet'
  rows = [json.loads(line) for line in _ROWS.splitlines()]
  parquet.write_table(pyarrow.Table.from_pylist(rows), file)
  yield '.parquet', 4, _Documents(file, file.read_bytes(), None)


@dataclasses.dataclass(frozen=True)
class _Documents:
  """Reads documents of one kind of file; `pack` is None for Parquet."""

  file: pathlib.Path
  seed: bytes
  pack: Callable[[bytes], bytes] | None

  def __call__(self, rng: Rng) -> None:
    change = mutate_json if '.jsonl' in self.file.name else mutate
    plain = change(self.seed, rng)
    content, intact, cut = plain, self.pack is not None, False
    if self.pack:
      content = self.pack(plain)
      if self.pack is not bytes and rng.random() < 0.4:
        whole = self.pack(self.seed)
        content, intact, plain = mutate(whole, rng), False, b''
        cut = len(content) < len(whole) and whole.startswith(content)
    self.file.write_bytes(content)
    found, refused = [], None
    for each in documents.read_all(inputs.find([str(self.file)]), 'text'):
      try:
        found.append(each.text())
      except UserError as error:
        refused = error
    for text in found:
      cleaning.clean(text).encode()
    if intact:
      expect(found == self._expected(plain), 'other texts than in the file')
    if refused:
      raise refused
    expect(not cut, 'a file that is cut short')

  def _expected(self, plain: bytes) -> list[str]:
    """Returns the texts of undamaged content, read in the simplest way."""
    if '.txt' in self.file.name:
      return list(_decoded(plain))
    rows = []
    for line in plain.split(b'\n'):
      with contextlib.suppress(ValueError, RecursionError):
        rows += [json_rows.parse(text) for text in _decoded(line)]
    texts = (row.get('text') for row in rows if isinstance(row, dict))
    return [text for text in texts if isinstance(text, str)]


def _decoded(content: bytes) -> Iterator[str]:
  with contextlib.suppress(UnicodeDecodeError):
    text = content.decode('utf-8-sig')
    if text.strip():
      yield text


def tokenizer_readers(
  prepared: pathlib.Path, original: pathlib.Path, folder: pathlib.Path
) -> Iterator[Entry]:
  """Yields the readers of the vocabularies.

  Args:
    prepared: prepared data.
    original: a vocabulary in the released format, alone in its folder.
    folder: a Hugging Face folder of the original vocabulary.
  """

  def check(tokenizer: tokenization.Tokenizer) -> None:
    rows = tokenizer.vocab_size
    tokenizer.decode([0, rows // 2, rows - 1, rows])
    if tokenizer.kind == 'sentencepiece':
      ids = tokenizer.encode('It was a dark night.\n12')
      expect(all(0 <= i < rows for i in ids), f'ids outside 0..{rows - 1}')
      tokenizer.decode(ids)

  def model(rng: Rng) -> None:
    file = prepared / 'tokenizer.model'
    with changed(file, mutate(file.read_bytes(), rng)):
      check(tokenization.load(str(file)))

  def pair(rng: Rng) -> None:
    file = rng.choice(sorted(original.iterdir()))
    change = mutate_json if file.suffix == '.json' else mutate
    with changed(file, change(file.read_bytes(), rng)):
      check(tokenization.load(f'openai:{original}'))

  def single(rng: Rng) -> None:
    file = folder / 'tokenizer.json'
    with changed(file, mutate_json(file.read_bytes(), rng)):
      check(tokenization.load(f'openai:{folder}'))

  yield 'tokenizer.model', 4, model
  yield 'encoder, bpe', 5, pair
  yield 'tokenizer.json', 4, single


def shard_readers(prepared: pathlib.Path) -> Iterator[Entry]:
  """Yields the readers of prepared data."""

  def read() -> tuple[object, ...]:
    meta = shards.read_meta(prepared)
    fingerprint = meta['tokenizer']['fingerprint']
    belonging.shards_tokenizer(str(prepared), fingerprint)
    found: list[object] = []
    for split in shards.SPLITS:
      tokens = shards.Tokens(prepared, split)
      found.append(tokens.read(0, tokens.num_tokens).tobytes())
      found.append(tokens.document_ends.tobytes())
    return tuple(found)

  expected = read()

  def reader(*names: str) -> Reader:
    def one(rng: Rng) -> None:
      file = prepared / rng.choice(names)
      change = mutate_json if '.json' in file.name else mutate
      with changed(file, change(file.read_bytes(), rng)):
        expect(read() == expected, 'other tokens')

    return one

  bins = [file.name for file in sorted(prepared.glob('*.bin'))]
  yield 'meta.json', 5, reader(shards.META)
  yield 'documents.jsonl', 3, reader(shards.DOCUMENTS)
  yield 'shards', 3, reader(*bins)
