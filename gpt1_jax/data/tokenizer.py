"""SentencePiece BPE, trained and loaded, behind the one tokenizer interface.

Text is cleaned and lower-cased by us and nothing else is done to it: the
model's own normalisation is `identity`. Its rows are, in order: unknown (0),
the document boundary (1), newline (2), then the merges and the base
characters. The boundary and the newline are control pieces: no text can
produce them; a newline is put between the encoded lines of a text. A maximal
run of characters outside the training text's alphabet is one unknown.
"""

import collections
import hashlib
import io
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from gpt1_jax.data import text as text_lib
from gpt1_jax.errors import UserError

NUM_SPECIALS = 3  # start, delimiter, extract: rows after the vocabulary

_UNKNOWN, _DOCUMENT, _NEWLINE = '<unk>', '<document>', '<newline>'
_MODEL_FILE = 'tokenizer.model'
# A character rarer than this in the training text is left to unknown.
_RARE_CHARACTER = 1e-7


class SentencePieceTokenizer:
  """A BPE model and the ids of its symbols.

  Attributes:
    kind: 'sentencepiece'.
    vocab_size: rows of text, symbols included; the specials of fine-tuning
      (start, delimiter, extract) come after them.
    merges: pieces made by merging, read from the model.
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
    self.merges = sum(
      len(p.IdToPiece(i)) > 1
      for i in range(self.vocab_size)
      if not p.IsControl(i) and not p.IsUnknown(i)
    )
    self.fingerprint = hashlib.sha256(model).hexdigest()

  def encode(self, text: str) -> list[int]:
    """Ids of any text: cleaned, lower-cased, encoded."""
    return self.encode_clean(text_lib.clean(text))

  def encode_clean(self, text: str) -> list[int]:
    """Ids of a text that `text.clean` has been over."""
    lines = [line.strip() for line in text.lower().split('\n')]
    out = self._processor.EncodeAsIds(lines[0])
    for line in lines[1:]:
      out.append(self.newline_id)
      out += self._processor.EncodeAsIds(line)
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
      self.vocab_size: '<start>',
      self.vocab_size + 1: '<delimiter>',
      self.vocab_size + 2: '<extract>',
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
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / (_MODEL_FILE + '.tmp')
    temporary.write_bytes(self._model)
    os.replace(temporary, directory / _MODEL_FILE)

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
      'unknown': 'one unknown for each maximal run of unseen characters',
    }


def load(path: str | os.PathLike) -> SentencePieceTokenizer:
  """The tokenizer of prepared shards, of a run, or of a .model file.

  Raises:
    UserError: there is none.
  """
  path = pathlib.Path(path)
  for candidate in (path / 'tokenizer' / _MODEL_FILE, path / _MODEL_FILE, path):
    if candidate.is_file():
      return SentencePieceTokenizer(candidate.read_bytes(), str(candidate))
  raise UserError(
    f'{path}: no tokenizer here (looked for {_MODEL_FILE}, '
    f'tokenizer/{_MODEL_FILE}, or a .model file)'
  )


def train(lines: Iterable[str], merges: int) -> SentencePieceTokenizer:
  """Trains BPE with exactly `merges` merges on cleaned, lower-cased lines.

  Args:
    lines: the training text; held as word counts and, once, as text.
    merges: on top of the base characters and the symbols.

  Raises:
    UserError: the text allows fewer merges (the message says how many), or
      the vocabulary would not fit 16 bits.
  """
  lines = [line for line in lines if line]
  counts: collections.Counter[str] = collections.Counter()
  for line in lines:
    counts.update(line)
  counts.pop(' ', None)
  least = _RARE_CHARACTER * counts.total()
  rare = ''.join(c for c, n in counts.items() if n < least)
  if rare:
    drop = str.maketrans(dict.fromkeys(rare, ' '))
    lines = [line.translate(drop) for line in lines]
  base = len(counts) - len(rare) + 1  # and the mark of a word's beginning
  symbols = 3
  vocab_size = base + symbols + merges
  if vocab_size + NUM_SPECIALS > 2**16:
    raise UserError(
      f'--merges={merges}: with {base} base characters the vocabulary does '
      'not fit 16 bits; ask for fewer'
    )
  try:
    model = _train(lines, vocab_size)
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


def _train(lines: list[str], vocab_size: int) -> bytes:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(lines),
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
