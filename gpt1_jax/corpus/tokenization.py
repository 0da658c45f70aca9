"""Loads either tokenizer: a SentencePiece BPE or the original vocabulary."""

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from gpt1_jax import storage
from gpt1_jax.corpus import openai_tokenizer, sentencepiece_tokenizer
from gpt1_jax.corpus.vocabulary import TokenizerDescription
from gpt1_jax.errors import UserError

_OPENAI = 'openai:'  # prefix of a folder that holds the original vocabulary


class Tokenizer(Protocol):
  """Turns text into token ids and back.

  Attributes:
    kind: 'sentencepiece' or 'openai'.
    vocab_size: number of rows for text and symbols; the three specials of
      fine-tuning (start, delimiter, extract) follow them.
    merges: number of BPE merges.
    unknown_id: id of text that the vocabulary cannot spell.
    newline_id: id between two lines of a text.
    document_id: id that ends a document.
    files: name -> content of the files that `save` writes.
    fingerprint: hex sha256 that identifies the vocabulary.
  """

  kind: str
  vocab_size: int
  merges: int
  unknown_id: int
  newline_id: int
  document_id: int
  files: dict[str, bytes]
  fingerprint: str

  def encode(self, text: str) -> list[int]:
    """Cleans any text and encodes it."""

  def encode_clean(self, text: str) -> list[int]:
    """Encodes text that `cleaning.clean` returned."""

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes ids to lower-cased text; raises UserError for unknown ids."""

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes the tokenizer's files into a directory, each atomically."""

  def description(self) -> TokenizerDescription:
    """Returns the `tokenizer` section of meta.json."""


def from_files(files: Mapping[str, bytes]) -> Tokenizer:
  """Returns the tokenizer that has these `files`."""
  if model := files.get(sentencepiece_tokenizer.MODEL_FILE):
    return sentencepiece_tokenizer.SentencePieceTokenizer(model)
  names = openai_tokenizer.ENCODER_FILE, openai_tokenizer.MERGES_FILE
  return openai_tokenizer.OpenAITokenizer(files[names[0]], files[names[1]])


def load(path: str | os.PathLike[str]) -> Tokenizer:
  """Loads the tokenizer of prepared data, of a run, or of a .model file.

  Args:
    path: a folder or file; `openai:DIR` names a folder with the original
      vocabulary, as OpenAI's two files or as a Hugging Face folder has it.

  Raises:
    UserError: no tokenizer is there, or it is damaged.
  """
  name = os.fspath(path)
  if name.startswith(_OPENAI):
    directory = storage.path(name.removeprefix(_OPENAI))
    original = openai_tokenizer.find(directory)
    if original is None:
      raise UserError(
        f'{directory}: no original vocabulary here (looked for '
        f'{openai_tokenizer.ENCODER_FILE} and {openai_tokenizer.MERGES_FILE}, '
        'vocab.json and merges.txt, tokenizer.json)'
      )
    return original
  where = storage.path(name)
  file_name = sentencepiece_tokenizer.MODEL_FILE
  for file in (where / 'tokenizer' / file_name, where / file_name, where):
    if file.is_file():
      return sentencepiece_tokenizer.SentencePieceTokenizer(
        file.read_bytes(), str(file)
      )
  for directory in (where / 'tokenizer', where):
    original = openai_tokenizer.find(directory)
    if original is not None:
      return original
  raise UserError(
    f'{where}: no tokenizer here (looked for {file_name}, '
    f'tokenizer/{file_name}, a .model file, and the files of the original '
    'vocabulary)'
  )
