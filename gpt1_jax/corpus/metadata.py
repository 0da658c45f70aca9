"""Declares the content of meta.json and documents.jsonl."""

import dataclasses
import json
from typing import NotRequired

# pydantic rejects typing.TypedDict before Python 3.12.
from typing_extensions import TypedDict

from gpt1_jax.corpus.inputs import InputSize
from gpt1_jax.corpus.vocabulary import TokenizerDescription


class ShardMeta(TypedDict):
  """A shard in meta.json."""

  name: str
  tokens: int


class SplitMeta(TypedDict):
  """A split in meta.json.

  Attributes:
    tokens: number of tokens, document boundaries included.
    bytes: size of the cleaned text in UTF-8; absent in older prepared data.
  """

  tokens: int
  bytes: NotRequired[int]
  words: int
  documents: int
  shards: list[ShardMeta]


class FileMeta(TypedDict):
  """A file in meta.json."""

  sha256: str
  bytes: int


class Provenance(TypedDict):
  """The part of meta.json that `prepare` adds: where the shards come from."""

  splits: dict[str, SplitMeta]
  tokenizer: TokenizerDescription
  cleaning: int  # cleaning.CLEANING_VERSION
  validation_fraction: float
  settings: dict[str, object]  # pipeline.PrepareSettings
  input: InputSize


class Meta(Provenance):
  """The contents of meta.json.

  Attributes:
    checksum: sha256 of the other keys; absent in older prepared data.
  """

  version: int
  files: dict[str, FileMeta]
  checksum: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class DocumentRow:
  """A document of the corpus; a line of documents.jsonl.

  Each stage of `prepare` returns a row with more attributes filled in.

  Attributes:
    source: name of the document, such as `books/emma.txt` or `a.jsonl:12`.
    sha256: of the cleaned text, hex.
    words: white-space separated words; 0 for a duplicate.
    split: 'train', 'validation' or 'duplicate' (dropped); '' before the split.
    tokens: number of tokens, boundary included; 0 for a duplicate, and before
      encoding.
    num_bytes: bytes of the cleaned text while it waits to be encoded; not
      stored.
  """

  source: str
  sha256: str
  words: int
  split: str = ''
  tokens: int = 0
  num_bytes: int = 0

  def to_line(self) -> str:
    """Returns the line of documents.jsonl."""
    stored = dataclasses.asdict(self)
    del stored['num_bytes']
    return json.dumps(stored) + '\n'

  @property
  def digest(self) -> bytes:
    """The first 16 bytes of the hash: equal for copies of a document."""
    return bytes.fromhex(self.sha256)[:16]

  @property
  def hash_fraction(self) -> float:
    """The hash as a number in [0, 1); small numbers are held out."""
    return int(self.sha256[:13], 16) / 16**13
