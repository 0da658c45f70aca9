"""Trains, encodes and decodes with a SentencePiece BPE tokenizer.

Our cleaning and lower-casing are the only normalisation; the model's own is
`identity`. Its rows are, in this order: unknown (0), document boundary (1),
newline (2), the merges, the base characters. The boundary and the newline are
control pieces, which no text encodes to; `encode` puts a newline between the
lines of a text. Within a word, a maximal run of characters outside the alphabet
becomes one unknown. No piece crosses a word, so training and encoding work on
single words.
"""

import collections
import contextlib
import hashlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from gpt1_jax.corpus import cleaning, vocabulary
from gpt1_jax.errors import UserError

MODEL_FILE = 'tokenizer.model'
_UNKNOWN, _DOCUMENT, _NEWLINE = '<unk>', '<document>', '<newline>'
_SYMBOLS = (_UNKNOWN, _DOCUMENT, _NEWLINE)
# A model needs at least one character and the mark of a word's beginning.
MAX_MERGES = vocabulary.MAX_ROWS - len(_SYMBOLS) - 2
# Characters with a smaller share of the training text become unknown.
_RARE_CHARACTER = 1e-7
# SentencePiece marks the beginning of a word with the first of these (`_`
# replaces it in text) and reserves the second for training.
_WORD_MARK, _RESERVED = '\u2581', '\u2585'
_LONGEST_WORD = 128  # characters; training cuts longer words


class SentencePieceTokenizer:
  """A BPE model that `train` made; a `tokenization.Tokenizer`.

  Attributes:
    files: 'tokenizer.model' -> content.
    pieces: the model's spelling of each id.
    fingerprint: hex sha256 of the model file.
  """

  kind = 'sentencepiece'

  def __init__(self, model: bytes, name: str = MODEL_FILE):
    """Reads the bytes of a model file.

    Args:
      model: the bytes.
      name: the file's name, for error messages.

    Raises:
      UserError: this is not a SentencePiece model, or it lacks our symbols.
    """
    self.files = {MODEL_FILE: model}
    self._processor = _load(model, name)
    p = self._processor
    self.vocab_size = p.GetPieceSize()
    self.unknown_id = p.unk_id()
    self.document_id = p.PieceToId(_DOCUMENT)
    self.newline_id = p.PieceToId(_NEWLINE)
    for piece in (_DOCUMENT, _NEWLINE):
      if not p.IsControl(p.PieceToId(piece)):
        raise UserError(
          f'{name}: has no control piece {piece}; use a tokenizer that '
          '`prepare` trained'
        )
    try:
      self.pieces = [p.IdToPiece(i) for i in range(self.vocab_size)]
    except UnicodeDecodeError as error:
      raise UserError(f'{name}: damaged, a piece is not UTF-8') from error
    spelled = [
      piece
      for i, piece in enumerate(self.pieces)
      if not p.IsControl(i) and not p.IsUnknown(i)
    ]
    if any(_WORD_MARK in piece[1:] for piece in spelled):
      raise UserError(
        f'{name}: has pieces that cross words; use a tokenizer that `prepare` '
        'trained'
      )
    self.merges = sum(len(piece) > 1 for piece in spelled)
    self.fingerprint = hashlib.sha256(model).hexdigest()
    self._words = vocabulary.WordCache(lambda: p.EncodeAsIds)

  def encode(self, text: str) -> list[int]:
    """Cleans, lower-cases and encodes any text."""
    return self.encode_clean(cleaning.clean(text))

  def encode_clean(self, text: str) -> list[int]:
    """Lower-cases and encodes text that `cleaning.clean` returned."""
    # Line by line: str.lower takes 12 bytes for each character beyond ASCII's.
    lines = map(_lower, text.split('\n'))
    return self._words.encode_lines(lines, self.newline_id)

  def decode(self, ids: Sequence[int]) -> str:
    """Decodes to cleaned, lower-cased text; spells symbols by their names.

    Raises:
      UserError: an id is outside the vocabulary and its specials.
    """
    names = {
      self.newline_id: '\n',
      self.document_id: _DOCUMENT,
      **dict(enumerate(vocabulary.SPECIALS, self.vocab_size)),
    }
    parts: list[str] = []
    for is_symbol, group in itertools.groupby(
      map(int, ids), names.__contains__
    ):
      run = list(group)
      for i in run:
        vocabulary.check_id(i, self.vocab_size)
      if is_symbol:
        parts += [names[i] for i in run]
      else:
        parts.append(self._processor.DecodeIds(run).strip())
    return ' '.join(parts)

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes tokenizer.model into a directory, atomically."""
    vocabulary.save(self.files, directory)

  def description(self) -> vocabulary.TokenizerDescription:
    """Returns the `tokenizer` section of meta.json."""
    return vocabulary.describe(
      self,
      normalization='ftfy, punctuation and white space standardised, '
      'lower-cased (str.lower); the model itself: identity',
      unknown='one unknown for each maximal run, within a word, of unseen '
      'characters (emoji, CJK)',
    )


def _load(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
  processor = sentencepiece.SentencePieceProcessor()
  with contextlib.suppress(RuntimeError):
    processor.LoadFromSerializedProto(model)
    if processor.GetPieceSize():
      return processor
  raise UserError(f'{name}: not a SentencePiece model')


def count_words(lines: Iterable[str]) -> collections.Counter[str]:
  """Counts the lower-cased words of cleaned text."""
  counts: collections.Counter[str] = collections.Counter()
  for line in lines:
    counts.update(_lower(line).split())
  return counts


def train(
  word_counts: collections.Counter[str], merges: int
) -> SentencePieceTokenizer:
  """Trains a BPE tokenizer with exactly `merges` merges.

  Args:
    word_counts: occurrences of each word, see `count_words`.
    merges: number of merges, in addition to base characters and symbols.

  Raises:
    UserError: the text allows fewer merges (the message says how many), or
      the vocabulary does not fit 16 bits.
  """
  word_counts, num_characters = _trainable(word_counts)
  base = num_characters + 1  # the mark of a word's beginning
  vocab_size = base + len(_SYMBOLS) + merges
  if vocab_size > vocabulary.MAX_ROWS:
    raise UserError(
      f'--merges={merges}: with {base} base characters the vocabulary does '
      'not fit 16 bits; ask for '
      f'{vocabulary.MAX_ROWS - len(_SYMBOLS) - base} or fewer'
    )
  if not word_counts:
    raise UserError('there is no text to train a tokenizer on')
  try:
    model = _train(word_counts, vocab_size)
  except RuntimeError as error:
    largest = re.search(r'value <= (\d+)', str(error))
    if not largest:
      raise
    possible = int(largest[1]) - base - len(_SYMBOLS)
  else:
    tokenizer = SentencePieceTokenizer(model)
    if tokenizer.merges == merges:
      return tokenizer
    possible = tokenizer.merges
  raise UserError(
    f'--merges={merges}: this text allows only {possible}; ask for that many '
    'or fewer (8000 suit a few books), or give more text'
  )


def _lower(text: str) -> str:
  return text.lower().replace(_WORD_MARK, '_')


def _trainable(
  word_counts: collections.Counter[str],
) -> tuple[collections.Counter[str], int]:
  """Returns the words that SentencePiece accepts, and the alphabet's size.

  Drops rare characters and cuts words that are too long. Also cuts inside the
  spelling of a symbol: the trainer would drop it with all its characters.
  """
  characters: collections.Counter[str] = collections.Counter()
  for word, count in word_counts.items():
    for character in word:
      characters[character] += count
  least = _RARE_CHARACTER * characters.total()
  rare = {c for c, count in characters.items() if count < least}
  rare |= {_RESERVED} & characters.keys()
  drop = str.maketrans(dict.fromkeys(rare, ' '))
  parts: collections.Counter[str] = collections.Counter()
  for word, count in word_counts.items():
    if rare:
      word = word.translate(drop)
    for symbol in _SYMBOLS:
      word = word.replace(symbol, f'{symbol[0]} {symbol[1:]}')
    for part in word.split():
      for i in range(0, len(part), _LONGEST_WORD):
        parts[part[i : i + _LONGEST_WORD]] += count
  return parts, len(characters) - len(rare)


def _train(word_counts: collections.Counter[str], vocab_size: int) -> bytes:
  lines = (f'{word}\t{count}' for word, count in sorted(word_counts.items()))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=lines,
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
