"""SentencePiece BPE, trained and loaded, behind the one tokenizer interface.

The other behind it is the original vocabulary, `original.py`; `load` finds
either.

Text is cleaned and lower-cased by us and nothing else is done to it: the
model's own normalisation is `identity`. Its rows are, in order: unknown (0),
the document boundary (1), newline (2), then the merges and the base
characters. The boundary and the newline are control pieces: no text can
produce them; a newline is put between the encoded lines of a text. Within a
word, a maximal run of characters outside the alphabet is one unknown. No piece
crosses a word, so words are trained on and encoded one by one.
"""

import collections
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from gpt1_jax import storage
from gpt1_jax.corpus import openai_tokenizer, text as text_lib
from gpt1_jax.errors import UserError

NUM_SPECIALS = len(openai_tokenizer.SPECIALS)  # rows after the vocabulary

_UNKNOWN, _DOCUMENT, _NEWLINE = '<unk>', '<document>', '<newline>'
_MODEL_FILE = 'tokenizer.model'
ORIGINAL = 'openai:'  # before the folder of the original vocabulary
# A character rarer than this in the training text is left to unknown.
_RARE_CHARACTER = 1e-7
# SentencePiece writes word beginnings with the one (in text it becomes `_`),
# and keeps the other for itself when training.
_WORD_MARK, _RESERVED = '\u2581', '\u2585'
_LONGEST_WORD = 128  # characters; longer ones are cut for training
_CACHED_WORDS, _CACHED_LENGTH = 1 << 18, 32  # below 100 MB


class SentencePieceTokenizer:
  """A BPE model and the ids of its symbols.

  Attributes:
    kind: 'sentencepiece'.
    vocab_size: rows of text, symbols included; the specials of fine-tuning
      (start, delimiter, extract) come after them.
    merges: pieces made by merging, read from the model.
    pieces: of each id, as the model spells it.
    unknown_id, document_id, newline_id: rows of the symbols.
    fingerprint: sha256 of the model file, hex.
  """

  kind = 'sentencepiece'

  def __init__(self, model: bytes, name: str = _MODEL_FILE):
    """Reads a model file's bytes.

    Raises:
      UserError: they are no such model, or one without our symbols.
    """
    self._model = model
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model)
      loaded = self._processor.GetPieceSize() > 0
    except RuntimeError:
      loaded = False
    if not loaded:
      raise UserError(f'{name}: not a SentencePiece model')
    p = self._processor
    self.vocab_size = p.GetPieceSize()
    self.unknown_id = p.unk_id()
    self.document_id = p.PieceToId(_DOCUMENT)
    self.newline_id = p.PieceToId(_NEWLINE)
    for piece, number in (
      (_DOCUMENT, self.document_id),
      (_NEWLINE, self.newline_id),
    ):
      if number == self.unknown_id or not p.IsControl(number):
        raise UserError(
          f'{name}: has no control piece {piece}; use a tokenizer that '
          '`prepare` trained'
        )
    self.pieces = [p.IdToPiece(i) for i in range(self.vocab_size)]
    pieces = [
      piece
      for i, piece in enumerate(self.pieces)
      if not p.IsControl(i) and not p.IsUnknown(i)
    ]
    if any(_WORD_MARK in piece[1:] for piece in pieces):
      raise UserError(
        f'{name}: has pieces that cross words; use a tokenizer that `prepare` '
        'trained'
      )
    self.merges = sum(len(piece) > 1 for piece in pieces)
    self.fingerprint = hashlib.sha256(model).hexdigest()
    self._words = _Words(p)

  def encode(self, text: str) -> list[int]:
    """Ids of any text: cleaned, lower-cased, encoded."""
    return self.encode_clean(text_lib.clean(text))

  def encode_clean(self, text: str) -> list[int]:
    """Ids of a text that `text.clean` has been over."""
    words = self._words
    if len(words) > _CACHED_WORDS:
      words.clear()
    out: list[int] = []
    for line in _lower(text).split('\n'):
      out += itertools.chain.from_iterable(map(words.__getitem__, line.split()))
      out.append(self.newline_id)
    out.pop()
    return out

  def decode(self, ids: Sequence[int]) -> str:
    """Cleaned, lower-cased text; specials and boundaries by their names.

    Raises:
      UserError: an id outside the vocabulary and its specials.
    """
    out: list[str] = []
    run: list[int] = []
    names = {
      self.newline_id: '\n',
      self.document_id: _DOCUMENT,
      **dict(enumerate(openai_tokenizer.SPECIALS, self.vocab_size)),
    }
    for i in [*map(int, ids), None]:
      if i is not None and not 0 <= i < self.vocab_size + NUM_SPECIALS:
        raise UserError(f'token id {i} is outside 0..{self.vocab_size + 2}')
      if i is not None and i not in names:
        run.append(i)
        continue
      if run:
        out.append(self._processor.DecodeIds(run).strip())
        run = []
      if i is not None:
        out.append(names[i])
    return ' '.join(out)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes tokenizer.model into a directory, atomically."""
    storage.make_folder(directory)
    storage.write_bytes(storage.of(directory) / _MODEL_FILE, self._model)

  def description(self) -> dict[str, Any]:
    """What meta.json says of it."""
    return {
      'kind': self.kind,
      'fingerprint': self.fingerprint,
      'vocab_size': self.vocab_size,
      'merges': self.merges,
      'unknown_id': self.unknown_id,
      'document_id': self.document_id,
      'newline_id': self.newline_id,
      'normalization': 'ftfy, punctuation and white space standardised, '
      'lower-cased (str.lower); the model itself: identity',
      'unknown': 'one unknown for each maximal run, within a word, of unseen '
      'characters (emoji, CJK)',
    }


class _Words(dict[str, tuple[int, ...]]):
  """The ids of words; looking a word up costs a fraction of encoding it."""

  def __init__(self, processor: sentencepiece.SentencePieceProcessor):
    super().__init__()
    self._processor = processor

  def __missing__(self, word: str) -> tuple[int, ...]:
    ids = tuple(self._processor.EncodeAsIds(word))
    if len(word) <= _CACHED_LENGTH:
      self[word] = ids
    return ids


Tokenizer = SentencePieceTokenizer | openai_tokenizer.OriginalTokenizer


def load(path: str | os.PathLike) -> Tokenizer:
  """The tokenizer of prepared shards, of a run, or of a .model file.

  Args:
    path: where to look; `openai:DIR` is the original vocabulary in DIR, as
      OpenAI's two files or in a Hugging Face folder, and nothing else.

  Raises:
    UserError: there is none.
  """
  path = os.fspath(path)
  if path.startswith(ORIGINAL):
    directory = storage.of(path.removeprefix(ORIGINAL))
    found = openai_tokenizer.find(directory)
    if not found:
      raise UserError(
        f'{directory}: no original vocabulary here (looked for '
        f'{openai_tokenizer.ENCODER_FILE} and '
        f'{openai_tokenizer.MERGES_FILE}, vocab.json and '
        'merges.txt, tokenizer.json)'
      )
    return found
  path = storage.of(path)
  for candidate in (path / 'tokenizer' / _MODEL_FILE, path / _MODEL_FILE, path):
    if candidate.is_file():
      return SentencePieceTokenizer(candidate.read_bytes(), str(candidate))
  for candidate in (path / 'tokenizer', path):
    found = openai_tokenizer.find(candidate)
    if found:
      return found
  raise UserError(
    f'{path}: no tokenizer here (looked for {_MODEL_FILE}, '
    f'tokenizer/{_MODEL_FILE}, a .model file, and the files of the original '
    'vocabulary)'
  )


def train(lines: Iterable[str], merges: int) -> SentencePieceTokenizer:
  """`train_words` on the words of cleaned text."""
  return train_words(count_words(lines), merges)


def count_words(lines: Iterable[str]) -> collections.Counter[str]:
  """How often each lower-cased word occurs in cleaned text."""
  words: collections.Counter[str] = collections.Counter()
  for line in lines:
    words.update(_lower(line).split())
  return words


def train_words(
  words: collections.Counter[str], merges: int
) -> SentencePieceTokenizer:
  """Trains BPE with exactly `merges` merges.

  Args:
    words: how often each word occurs, see `count_words`.
    merges: on top of the base characters and the symbols.

  Raises:
    UserError: the text allows fewer merges (the message says how many), or
      the vocabulary would not fit 16 bits.
  """
  words, base = _alphabet(words)
  base += 1  # the mark of a word's beginning
  symbols = 3
  vocab_size = base + symbols + merges
  if vocab_size + NUM_SPECIALS > 2**16:
    raise UserError(
      f'--merges={merges}: with {base} base characters the vocabulary does '
      f'not fit 16 bits; ask for {2**16 - NUM_SPECIALS - symbols - base} or '
      'fewer'
    )
  if not words:
    raise UserError('there is no text to train a tokenizer on')
  try:
    model = _train(words, vocab_size)
  except RuntimeError as error:
    possible = re.search(r'value <= (\d+)', str(error))
    if not possible:
      raise
    raise UserError(
      f'--merges={merges}: this text allows only '
      f'{int(possible[1]) - base - symbols}; ask for that many or give more '
      'text'
    ) from None
  tokenizer = SentencePieceTokenizer(model)
  if tokenizer.merges != merges:
    raise UserError(
      f'--merges={merges}: this text allows only {tokenizer.merges}; ask for '
      'that many or give more text'
    )
  return tokenizer


def _lower(text: str) -> str:
  return text.lower().replace(_WORD_MARK, '_')


def _alphabet(
  words: collections.Counter[str],
) -> tuple[collections.Counter[str], int]:
  """Words as SentencePiece can take them, and how many characters they have.

  Without rare characters, cut where too long, and cut inside the spelling of a
  symbol, which the trainer would leave out with the characters in it.
  """
  characters: collections.Counter[str] = collections.Counter()
  for word, count in words.items():
    for character in word:
      characters[character] += count
  least = _RARE_CHARACTER * characters.total()
  rare = {c for c, count in characters.items() if count < least}
  rare |= {_RESERVED} & characters.keys()
  drop = str.maketrans(dict.fromkeys(rare, ' '))
  out: collections.Counter[str] = collections.Counter()
  for word, count in words.items():
    if rare:
      word = word.translate(drop)
    for symbol in (_UNKNOWN, _DOCUMENT, _NEWLINE):
      word = word.replace(symbol, f'{symbol[0]} {symbol[1:]}')
    for part in word.split():
      for i in range(0, len(part), _LONGEST_WORD):
        out[part[i : i + _LONGEST_WORD]] += count
  return out, len(characters) - len(rare)


def _train(words: collections.Counter[str], vocab_size: int) -> bytes:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=(f'{word}\t{n}' for word, n in sorted(words.items())),
    input_format='tsv',
    model_writer=model,
    model_type='bpe',
    vocab_size=vocab_size,
    character_coverage=1.0,
    normalization_rule_name='identity',
    max_sentence_length=1 << 30,
    max_sentencepiece_length=32,
    control_symbols=[_DOCUMENT, _NEWLINE],
    unk_piece=_UNKNOWN,
    unk_id=0,
    bos_id=-1,
    eos_id=-1,
    pad_id=-1,
    minloglevel=2,
  )
  return model.getvalue()
