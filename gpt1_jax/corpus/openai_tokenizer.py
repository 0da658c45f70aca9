"""Implements GPT-1's own tokenizer: spaCy's words, then BPE with `</w>`.

As in the released code (C: text_utils.py), spaCy's English rules
(`spacy.blank('en')`, no model) split cleaned text into words, which are
lower-cased and merged. The tokenizer is the two released files; a Hugging Face
folder holds the same pair. The rules never look beyond the white space around a
word, so each word is encoded once and its ids are remembered.
"""

import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpt1_jax import storage
from gpt1_jax.corpus import cleaning, vocabulary
from gpt1_jax.errors import UserError

ENCODER_FILE, MERGES_FILE = 'encoder_bpe_40000.json', 'vocab_40000.bpe'
_UNKNOWN, _NEWLINE, _WORD_END = '<unk>', '\n</w>', '</w>'


class OpenAITokenizer:
  r"""The released vocabulary; a `tokenization.Tokenizer`.

  It has 40,478 rows and 40,000 merges, but no document boundary, and adding a
  row would change the released shape. So the word `\n`, which has a row, ends a
  document (the unknown token, if a vocabulary lacks it).

  Attributes:
    files: released name -> content.
    encoder: piece -> id.
    merge_list: the merged pairs, best rank first.
    fingerprint: hex sha256 of the vocabulary and the merges; it does not
      depend on the format of the files.
  """

  kind = 'openai'

  def __init__(
    self,
    encoder: bytes,
    merges: bytes,
    names: tuple[str, str] = (ENCODER_FILE, MERGES_FILE),
  ):
    """Reads the bytes of the two files.

    Args:
      encoder: JSON, piece -> id.
      merges: a header line, then a pair of pieces on each line.
      names: names of the two files, for error messages.

    Raises:
      UserError: the files are damaged, or spaCy or tokenizers is missing.
    """
    self.files = {ENCODER_FILE: encoder, MERGES_FILE: merges}
    self.encoder = _read_encoder(encoder, names[0])
    self.merge_list = _read_merges(merges, names[1])
    self.vocab_size = max(self.encoder.values()) + 1
    self.merges = len(self.merge_list)
    self.unknown_id = self.encoder[_UNKNOWN]
    self.newline_id = self.encoder.get(_NEWLINE, self.unknown_id)
    self.document_id = self.newline_id
    canonical = [sorted(self.encoder.items()), self.merge_list]
    self.fingerprint = hashlib.sha256(
      json.dumps(canonical).encode()
    ).hexdigest()
    self._pieces = {i: piece for piece, i in self.encoder.items()}
    self._pieces[self.unknown_id] = _UNKNOWN
    self._merge = _word_merger(self.encoder, self.merge_list)
    self._words = vocabulary.WordCache(self._new_word_encoder)

  def encode(self, text: str) -> list[int]:
    """Cleans any text, splits it into words, lower-cases and encodes them."""
    return self.encode_clean(cleaning.clean(text))

  def encode_clean(self, text: str) -> list[int]:
    """Encodes text that `cleaning.clean` returned."""
    return self._words.encode_lines(text.split('\n'), self.newline_id)

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes to lower-cased words between spaces; spells specials by name.

    The white space around punctuation is lost: the vocabulary does not record
    it.

    Raises:
      UserError: an id is outside the vocabulary and its specials.
    """
    parts: list[str] = []
    for i in map(int, ids):
      vocabulary.check_id(i, self.vocab_size)
      if i < self.vocab_size:
        parts.append(self._pieces[i].replace(_WORD_END, ' '))
      else:
        parts.append(vocabulary.SPECIALS[i - self.vocab_size] + ' ')
    return ''.join(parts).rstrip(' ')

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes the two files under their released names, each atomically."""
    vocabulary.save(self.files, directory)

  def exceptions(self) -> dict[str, list[str]]:
    """Returns spaCy's exceptions to its rules: word -> its parts."""
    split = _splitter()
    return {word: [part.text for part in split(word)] for word in split.rules}

  def description(self) -> vocabulary.TokenizerDescription:
    """Returns the `tokenizer` section of meta.json."""
    return vocabulary.describe(
      self,
      normalization='ftfy, punctuation and white space standardised, words '
      'split, each lower-cased (str.lower)',
      word_split=f"spaCy {_import('spacy').__version__}, spacy.blank('en')",
      unknown='one unknown for each unseen character',
      document='a newline ends a document',
    )

  def _new_word_encoder(self) -> Callable[[str], Iterable[int]]:
    split = _splitter()  # a new one: it caches every string it splits
    return lambda word: itertools.chain.from_iterable(
      self._merge(part.text.lower()) for part in split(word)
    )


def find(path: storage.Path) -> OpenAITokenizer | None:
  """Loads the vocabulary of a folder; returns None if there is none.

  Looks for the two released files (encoder_bpe*.json and vocab*.bpe), then for
  vocab.json and merges.txt, then for tokenizer.json.

  Raises:
    UserError: the files are damaged, or one of a pair is missing.
  """
  encoder = _first_file(path, 'encoder_bpe*.json', 'vocab.json')
  merge = _first_file(path, 'vocab*.bpe', 'merges.txt')
  if encoder and merge:
    return OpenAITokenizer(
      encoder.read_bytes(), merge.read_bytes(), (str(encoder), str(merge))
    )
  if (path / 'tokenizer.json').is_file():
    return _from_tokenizer_json(path / 'tokenizer.json')
  if half := encoder or merge:
    raise UserError(
      f'{path}: has {half.name} but not the other half: the '
      f'vocabulary is a pair, {ENCODER_FILE} and {MERGES_FILE} or vocab.json '
      'and merges.txt'
    )
  return None


def _first_file(path: storage.Path, *patterns: str) -> storage.Path | None:
  for pattern in patterns:
    names = sorted(map(os.fspath, path.glob(pattern)))
    for file in map(storage.path, names):
      if file.is_file():
        return file
  return None


def _import(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f'the original vocabulary needs {error.name}, which is not installed: '
      "pip install 'gpt1_jax[openai]'"
    ) from None


def _splitter() -> Any:
  return _import('spacy').blank('en').tokenizer


def _word_merger(
  encoder: dict[str, int], merges: list[tuple[str, str]]
) -> Callable[[str], list[int]]:
  """Returns a function that merges a lower-cased word and looks up its ids."""
  # The library demands a distinct id for every piece of a merge. The released
  # code looks up the finished pieces alone; missing ones become unknown.
  pieces = dict.fromkeys(
    itertools.chain(encoder, *((a, b, a + b) for a, b in merges))
  )
  ids = [encoder.get(piece, encoder[_UNKNOWN]) for piece in pieces]
  bpe = _import('tokenizers').models.BPE(
    vocab={piece: i for i, piece in enumerate(pieces)},
    merges=merges,
    unk_token=_UNKNOWN,
    end_of_word_suffix=_WORD_END,
    fuse_unk=False,
  )
  return lambda word: [ids[piece.id] for piece in bpe.tokenize(word)]


def _read_encoder(content: bytes, name: str) -> dict[str, int]:
  try:
    encoder = json.loads(content)
    if isinstance(encoder, dict):
      ''.join(encoder).encode()  # rejects unpaired surrogates
  except (ValueError, RecursionError) as error:
    raise UserError(f'{name}: damaged ({error})') from None
  if not isinstance(encoder, dict) or not all(
    type(i) is int for i in encoder.values()
  ):
    raise UserError(f'{name}: not a vocabulary (a JSON object, piece to id)')
  if _UNKNOWN not in encoder:
    raise UserError(f'{name}: a vocabulary without {_UNKNOWN}')
  rows = max(encoder.values()) + 1
  if rows > vocabulary.MAX_ROWS:
    raise UserError(
      f'{name}: an id is above {vocabulary.MAX_ROWS - 1}; ids must fit 16 bits'
    )
  if set(encoder.values()) != set(range(rows)):
    raise UserError(
      f'{name}: has {len(set(encoder.values()))} ids of 0..{rows - 1}; all of '
      'them are required'
    )
  return encoder


def _read_merges(content: bytes, name: str) -> list[tuple[str, str]]:
  """Parses the pairs after the header line (C: text_utils.py)."""
  try:
    lines = content.decode().rstrip().split('\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{name}: damaged ({error})') from None
  if lines[0].startswith('#version'):
    del lines[0]
  pairs = []
  for line in lines:
    pieces = line.split()
    if len(pieces) != 2:
      raise UserError(
        f'{name}: not a list of merges: {line[:40]!r} is not a pair of pieces'
      )
    pairs.append((pieces[0], pieces[1]))
  return pairs


def _from_tokenizer_json(path: storage.Path) -> OpenAITokenizer:
  """Extracts the pair of files from a BPE tokenizer.json with `</w>`."""
  try:
    model = json.loads(path.read_bytes())['model']
    vocab = {
      piece: i
      for piece, i in model['vocab'].items()
      if piece not in vocabulary.SPECIAL_PIECES
    }
    merges = [
      pair if isinstance(pair, str) else ' '.join(pair)
      for pair in model['merges']
    ]
    suffix = model.get('end_of_word_suffix')
    merge_text = '\n'.join(['#version: 0.2', *merges, '']).encode()
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
    raise UserError(f'{path}: not a tokenizer of the BPE kind') from None
  if suffix != _WORD_END:
    raise UserError(
      f'{path}: its words end in {suffix!r}, but the words of GPT-1 end in '
      f'{_WORD_END!r}'
    )
  return OpenAITokenizer(
    json.dumps(vocab).encode(),
    merge_text,
    (str(path), str(path)),
  )
