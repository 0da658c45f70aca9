"""The original GPT-1 vocabulary: spaCy's word split, then BPE with `</w>`.

As in C: text_utils.py: mended and standardised text is split into words by
spaCy's English rules (`spacy.blank('en')`, no model), each word is lower-cased
and merged. The two released files are the tokenizer; a Hugging Face folder
holds the same. Words are encoded one by one and remembered: the rules never
look beyond the white space round a word.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from gpt1_jax import storage
from gpt1_jax.corpus import text as text_lib
from gpt1_jax.errors import UserError

ENCODER_FILE, MERGES_FILE = 'encoder_bpe_40000.json', 'vocab_40000.bpe'
# Rows after any vocabulary (P §3.3); no text makes them.
SPECIALS = ('<start>', '<delimiter>', '<extract>')
# What they are called in a tokenizer.json. Cleaning sets `|` apart, so that no
# piece of a text is spelled so.
SPECIAL_PIECES = ('<|start|>', '<|delimiter|>', '<|extract|>')

_UNKNOWN, _NEWLINE, _WORD_END = '<unk>', '\n</w>', '</w>'
_CACHED_WORDS, _CACHED_LENGTH = 1 << 18, 32


class OriginalTokenizer:
  r"""The released vocabulary and the ids of its symbols.

  It has no row for a document's boundary, and a row more would not be the
  released shape: documents are joined by a newline, its own row.

  Attributes:
    kind: 'openai'.
    vocab_size: rows of text, 40,478 in the released vocabulary; the specials
      of fine-tuning (start, delimiter, extract) come after them.
    merges: 40,000 in the released vocabulary.
    unknown_id: of each character outside the vocabulary.
    newline_id: of the word `\n`; unknown_id if the vocabulary lacks it.
    document_id: newline_id.
    encoder: piece → id, of the released file.
    merge_list: the pairs, in the order of their rank.
    fingerprint: sha256 of the vocabulary and the merges, hex, whatever the
      spelling of the files.
  """

  kind = 'openai'

  def __init__(self, encoder: bytes, merges: bytes, names: Sequence[str] = ()):
    """Reads the bytes of the two files.

    Args:
      encoder: JSON, piece → id.
      merges: a header line, then a pair of pieces a line.
      names: of the two files, for messages.

    Raises:
      UserError: they are no such files, or spaCy or tokenizers is missing.
    """
    names = names or (ENCODER_FILE, MERGES_FILE)
    self._files = {ENCODER_FILE: encoder, MERGES_FILE: merges}
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
    self._words = _Words(self.encoder, self.merge_list)

  def encode(self, text: str) -> list[int]:
    """Ids of any text: cleaned, split into words, lower-cased, encoded."""
    return self.encode_clean(text_lib.clean(text))

  def encode_clean(self, text: str) -> list[int]:
    """Ids of a text that `text.clean` has been over."""
    if self._words.misses > _CACHED_WORDS:
      self._words = _Words(self.encoder, self.merge_list)
    words = self._words
    out: list[int] = []
    for line in text.split('\n'):
      out += itertools.chain.from_iterable(map(words.__getitem__, line.split()))
      out.append(self.newline_id)
    out.pop()
    return out

  def decode(self, ids: Sequence[int]) -> str:
    """Words between spaces, lower-cased; specials by their names.

    White space round punctuation is not what it was: the vocabulary does not
    say where it stood.

    Raises:
      UserError: an id outside the vocabulary and its specials.
    """
    out: list[str] = []
    for i in map(int, ids):
      if not 0 <= i < self.vocab_size + len(SPECIALS):
        raise UserError(f'token id {i} is outside 0..{self.vocab_size + 2}')
      if i < self.vocab_size:
        out.append(self._pieces[i].replace(_WORD_END, ' '))
      else:
        out.append(SPECIALS[i - self.vocab_size] + ' ')
    return ''.join(out).rstrip(' ')

  def save(self, directory: str | os.PathLike) -> None:
    """Writes the two files under their released names, each atomically."""
    storage.make_folder(directory)
    for name, content in self._files.items():
      storage.write_bytes(storage.of(directory) / name, content)

  def exceptions(self) -> dict[str, list[str]]:
    """Word → its parts, of spaCy's list of exceptions."""
    return self._words.exceptions()

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
      'normalization': 'ftfy, punctuation and white space standardised, words '
      'split, each lower-cased (str.lower)',
      'word_split': f"spaCy {self._words.spacy_version}, spacy.blank('en')",
      'unknown': 'one unknown for each unseen character',
      'document': 'a newline ends a document',
    }


class _Words(dict[str, tuple[int, ...]]):
  """The ids of what stands between white space.

  Attributes:
    misses: words that were encoded. spaCy remembers each of them, so that
      memory is bounded by beginning anew after many.
    spacy_version: of the rules.
  """

  def __init__(self, encoder: dict[str, int], merges: list[tuple[str, str]]):
    super().__init__()
    spacy, tokenizers = _libraries()
    self.misses = 0
    self.spacy_version = spacy.__version__
    self._split = spacy.blank('en').tokenizer
    # The library wants every piece of a merge, and an id of its own for each;
    # the released code looks the finished pieces up, and takes unknown for
    # what the vocabulary lacks.
    pieces = dict.fromkeys(
      itertools.chain(encoder, *((a, b, a + b) for a, b in merges))
    )
    self._ids = [encoder.get(piece, encoder[_UNKNOWN]) for piece in pieces]
    self._bpe = tokenizers.models.BPE(
      vocab={piece: i for i, piece in enumerate(pieces)},
      merges=merges,
      unk_token=_UNKNOWN,
      end_of_word_suffix=_WORD_END,
      fuse_unk=False,
    )

  def exceptions(self) -> dict[str, list[str]]:
    blank = self._split
    return {word: [t.text for t in blank(word)] for word in blank.rules}

  def __missing__(self, word: str) -> tuple[int, ...]:
    self.misses += 1
    ids = tuple(
      self._ids[piece.id]
      for token in self._split(word)
      for piece in self._bpe.tokenize(token.text.lower())
    )
    if len(word) <= _CACHED_LENGTH:
      self[word] = ids
    return ids


def find(path: storage.Path) -> OriginalTokenizer | None:
  """The vocabulary in a folder, None if there is none.

  Looks for the two released files (encoder_bpe*.json and vocab*.bpe), for
  vocab.json and merges.txt, and for tokenizer.json, in this order.

  Raises:
    UserError: what is there is damaged, or half of it is missing.
  """
  encoders = [*sorted(path.glob('encoder_bpe*.json')), path / 'vocab.json']
  merges = [*sorted(path.glob('vocab*.bpe')), path / 'merges.txt']
  encoder, merge = (
    next((file for file in files if file.is_file()), None)
    for files in (encoders, merges)
  )
  if encoder and merge:
    return OriginalTokenizer(
      encoder.read_bytes(), merge.read_bytes(), (str(encoder), str(merge))
    )
  if (path / 'tokenizer.json').is_file():
    return _from_tokenizer_json(path / 'tokenizer.json')
  if encoder or merge:
    raise UserError(
      f'{path}: has {(encoder or merge).name} but not the other half: the '
      f'vocabulary is a pair, {ENCODER_FILE} and {MERGES_FILE} or vocab.json '
      'and merges.txt'
    )
  return None


def _libraries() -> tuple[Any, Any]:
  try:
    import spacy
    import tokenizers
  except ImportError as error:
    raise UserError(
      f'the original vocabulary needs {error.name}, which is not installed: '
      "pip install 'gpt1_jax[openai]'"
    ) from None
  return spacy, tokenizers


def _read_encoder(content: bytes, name: str) -> dict[str, int]:
  try:
    encoder = json.loads(content)
  except ValueError as error:
    raise UserError(f'{name}: damaged ({error})') from None
  if not isinstance(encoder, dict) or not all(
    type(i) is int for i in encoder.values()
  ):
    raise UserError(f'{name}: not a vocabulary (a JSON object, piece to id)')
  if _UNKNOWN not in encoder:
    raise UserError(f'{name}: a vocabulary without {_UNKNOWN}')
  rows = max(encoder.values()) + 1
  if set(encoder.values()) != set(range(rows)):
    raise UserError(
      f'{name}: {len(set(encoder.values()))} ids of 0..{rows - 1}, all of them '
      'expected'
    )
  if rows + len(SPECIALS) > 2**16:
    raise UserError(f'{name}: {rows} rows do not fit 16 bits')
  return encoder


def _read_merges(content: bytes, name: str) -> list[tuple[str, str]]:
  """The pairs after the header line (C: text_utils.py)."""
  try:
    lines = content.decode().rstrip().split('\n')
  except UnicodeDecodeError as error:
    raise UserError(f'{name}: damaged ({error})') from None
  if lines[0].startswith('#version'):
    del lines[0]
  pairs = []
  for line in lines:
    pair = tuple(line.split())
    if len(pair) != 2:
      raise UserError(
        f'{name}: not a list of merges: {line[:40]!r} is no pair of pieces'
      )
    pairs.append(pair)
  return pairs


def _from_tokenizer_json(path: storage.Path) -> OriginalTokenizer:
  """The pair out of a tokenizer.json of the BPE kind with `</w>`."""
  try:
    model = json.loads(path.read_bytes())['model']
    vocab = {k: v for k, v in model['vocab'].items() if k not in SPECIAL_PIECES}
    merges = [
      pair.split(' ') if isinstance(pair, str) else pair
      for pair in model['merges']
    ]
    suffix = model.get('end_of_word_suffix')
    if suffix != _WORD_END:
      raise UserError(
        f'{path}: its words end in {suffix!r}, {_WORD_END!r} expected: not the '
        'vocabulary of GPT-1'
      )
    lines = ['#version: 0.2', *(' '.join(pair) for pair in merges), '']
  except (ValueError, KeyError, TypeError, AttributeError):
    raise UserError(f'{path}: not a tokenizer of the BPE kind') from None
  return OriginalTokenizer(
    json.dumps(vocab).encode(), '\n'.join(lines).encode(), (str(path),) * 2
  )
