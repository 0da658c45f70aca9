"""Writes a tokenizer as tokenizer.json for Hugging Face's tokenizers library.

Cleaning becomes a sequence of replacements (of ftfy's repairs, only quotation
marks, line ends, control characters and NFC). No token is marked special, so
that no text encodes to a special id. A SentencePiece tokenizer produces the
same ids. The library cannot split words as spaCy does, so regular expressions
built from spaCy's exceptions and common rules do it. They split all 7.6M words
of 58 novels as spaCy does; the rarest rules (web addresses, emoticons with a
space inside) are omitted.
"""

import collections
import re
from collections.abc import Iterable
from typing import Any

from gpt1_jax.corpus import (
  cleaning,
  openai_tokenizer,
  sentencepiece_tokenizer,
  tokenization,
  vocabulary,
)
from gpt1_jax.errors import UserError

_MARK = '\u2581'  # starts a word in SentencePiece's models
_CUT = '\ue000'  # marks a split within a word; cleaned text never contains it
_ENDS = f'(?![^ {_CUT}])'
# Characters that spaCy splits off the start and the end of a word.
_OPENING = '§%=,:;!?¿¡()\\[\\]{}<>_#*&\'"`´«»$£€¥+'
_CLOSING = ':;!?¿¡,()\\[\\]{}<>_#*&\'"`´«»'
_UNITS = (
  '[kdcm]?m|[km]?g|nm|ha|yd|in|ft|t|lb|oz|km/h|mph|[KkMmGgTt][Bb]|[TGMK%$]'
)


def build(tokenizer: tokenization.Tokenizer) -> str | None:
  """Returns the JSON, or None if the library cannot represent the vocabulary.

  That is the case if an original vocabulary lacks pieces of its merges or maps
  two pieces to one id. The released vocabulary does neither.

  Raises:
    UserError: the tokenizers library is not installed.
  """
  try:
    import tokenizers
  except ImportError as error:
    raise UserError(
      f'writing a tokenizer.json needs {error.name}, which is not installed: '
      "pip install 'gpt1_jax[openai]'"
    ) from None
  if isinstance(tokenizer, openai_tokenizer.OpenAITokenizer):
    made = _original(tokenizers, tokenizer)
  else:
    assert isinstance(tokenizer, sentencepiece_tokenizer.SentencePieceTokenizer)
    made = _sentencepiece(tokenizers, tokenizer)
  return made.to_str() if made else None


def _sentencepiece(
  lib: Any, tokenizer: sentencepiece_tokenizer.SentencePieceTokenizer
) -> Any:
  """Converts a SentencePiece model; every split of a piece becomes a merge."""
  pieces = list(tokenizer.pieces)
  pieces[tokenizer.newline_id] = '\n'
  vocab = {piece: i for i, piece in enumerate(pieces)}
  merges = [
    (piece[:i], piece[i:])
    for number, piece in enumerate(pieces)
    if number not in (tokenizer.unknown_id, tokenizer.document_id)
    for i in range(1, len(piece))
    if piece[:i] in vocab and piece[i:] in vocab
  ]
  unknown = pieces[tokenizer.unknown_id]
  model = lib.models.BPE(
    vocab=_with_specials(vocab), merges=merges, unk_token=unknown, fuse_unk=True
  )
  out = lib.Tokenizer(model)
  replace = lib.normalizers.Replace
  out.normalizer = lib.normalizers.Sequence(
    [
      *_cleaning(lib),
      *_lower(lib),
      replace(_MARK, '_'),
      replace(' ', _MARK),
      lib.normalizers.Prepend(_MARK),
      replace(f'{_MARK}\n', '\n'),
    ]
  )
  out.pre_tokenizer = lib.pre_tokenizers.Split(
    lib.Regex(f'{_MARK}[^{_MARK}\n]+|\n'), 'isolated'
  )
  decoders = lib.decoders
  out.decoder = decoders.Sequence(
    [
      decoders.Replace('\n', ' \n'),
      decoders.Replace(_MARK, ' '),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  return out


def _original(
  lib: Any, tokenizer: openai_tokenizer.OpenAITokenizer
) -> Any | None:
  vocab = tokenizer.encoder
  if len(set(vocab.values())) < len(vocab) or any(
    piece not in vocab
    for a, b in tokenizer.merge_list
    for piece in (a, b, a + b)
  ):
    return None
  model = lib.models.BPE(
    vocab=_with_specials(vocab),
    merges=tokenizer.merge_list,
    unk_token='<unk>',
    end_of_word_suffix='</w>',
    fuse_unk=False,
  )
  out = lib.Tokenizer(model)
  out.normalizer = lib.normalizers.Sequence(
    [
      lib.normalizers.Replace(_CUT, '\ufffd'),
      *_cleaning(lib),
      *_word_split(lib, tokenizer.exceptions()),
      *_lower(lib),
    ]
  )
  out.pre_tokenizer = lib.pre_tokenizers.Split(
    lib.Regex(f'[ {_CUT}]'), 'removed'
  )
  out.decoder = lib.decoders.BPEDecoder(suffix='</w>')
  return out


def _with_specials(vocab: dict[str, int]) -> dict[str, int]:
  """Adds the three special tokens after the vocabulary."""
  rows = max(vocab.values()) + 1
  return vocab | {
    piece: rows + i for i, piece in enumerate(vocabulary.SPECIAL_PIECES)
  }


def _cleaning(lib: Any) -> list[Any]:
  """Returns normalizers for `cleaning.clean`, without most of ftfy."""

  def replace(pattern: str, content: str) -> Any:
    return lib.normalizers.Replace(lib.Regex(pattern), content)

  apart = []
  for mark in map(re.escape, cleaning.SPACED_MARKS):
    apart += [f'(?<=[^{mark}])(?={mark})', f'(?<={mark})(?=[^{mark}])']
  return [
    replace('[\u02bc\u2018-\u201b]', "'"),
    replace('[\u201c-\u201f]', '"'),
    replace('\r\n|[\r\u2028\u2029\u0085]', '\n'),
    replace(
      '[\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]', ''
    ),
    lib.normalizers.NFC(),
    *(replace(old, new) for old, new in cleaning.REPLACEMENTS),
    replace('|'.join(apart), ' '),
    replace('\\s*\n\\s*', ' \n '),
    replace('[^\\S\n]+', ' '),
    lib.normalizers.Strip(),
  ]


def _lower(lib: Any) -> list[Any]:
  """Returns normalizers for `str.lower`, which treats final sigma specially."""
  final = lib.Regex('(?<=\\p{L})Σ(?!\\p{L})')
  return [lib.normalizers.Replace(final, 'ς'), lib.normalizers.Lowercase()]


def _word_split(lib: Any, exceptions: dict[str, list[str]]) -> list[Any]:
  """Returns normalizers that split cleaned words by spaCy's English rules.

  Args:
    exceptions: maps words to their parts, from spaCy's rules.
  """

  def cut(*patterns: str, content: str = _CUT) -> Any:
    return lib.normalizers.Replace(lib.Regex('|'.join(patterns)), content)

  whole = [word for word, parts in exceptions.items() if len(parts) == 1]
  dotted = [w[:-1] for w in whole if re.fullmatch(r'[^\W\d_][\w.]*\.', w)]
  clipped = [w[1:] for w in whole if re.fullmatch(r"'[^\W\d_]+", w)]
  dropped = [w[:-1] for w in whole if re.fullmatch(r"[^\W\d_]+'", w)]
  lefts: dict[str, set[str]] = collections.defaultdict(set)
  for parts in exceptions.values():
    for i in range(1, len(parts)):
      lefts[''.join(parts[i:])].add(''.join(parts[:i]))
  lower = '\\p{Ll}\\p{Lo}'
  before_stop = f'[{lower}0-9%²+\'"`´«»)\\]!?:;,>&*#_-]|\\p{{Lu}}\\p{{Lu}}'
  opened = cut(f'(?<=[ {_CUT}][{_OPENING}])(?=[^ {_CUT}])')
  return [
    lib.normalizers.Prepend(' '),
    # Splits off up to three opening marks and any number of closing ones.
    *[opened] * 3,
    cut(f'(?<=[^ {_CUT}])(?=[{_CLOSING}][{_CLOSING}.]*(?![^ ]))'),
    *[cut(f"(?<=[^ {_CUT}])(?='[sS]\\.?{_ENDS})")] * 2,
    # Splits off a full stop, except after an abbreviation; ellipses stay whole.
    cut(f'(?<={before_stop}){_not_after(dotted)}(?=\\.{_ENDS})'),
    cut(f'(?<=[^ {_CUT}.])(?=\\.\\.+)', f'(?<=\\.\\.)(?=[^ {_CUT}.])'),
    cut(f'(?<=[0-9])(?=(?:{_UNITS}){_ENDS})'),
    # do|n't, I|'ll, can|not
    cut(
      *(
        f'(?={re.escape(right)}{_ENDS})(?<={_starts(left)})'
        for right, left in sorted(lefts.items())
      )
    ),
    # Within a word: a:b, end.Begin
    cut(
      '(?<=[\\p{L}0-9])(?=[:<>=]\\p{L})',
      '(?<=[\\p{L}0-9][:<>=])(?=\\p{L})',
      f'(?<=[{lower}\'"])(?=\\.[\\p{{Lu}}\'"])',
      f'(?<=[{lower}\'"]\\.)(?=[\\p{{Lu}}\'"])',
    ),
    # Words that spaCy keeps whole: 'em, doin', d.
    cut(
      f"(?<=[ {_CUT}]'){_CUT}(?=(?:'|{'|'.join(clipped)}){_ENDS})",
      f"(?<={_starts(dropped)}){_CUT}(?='{_ENDS})",
      f'(?<={_CUT}\\p{{Ll}}){_CUT}(?=\\.{_ENDS})',
      content='',
    ),
  ]


def _starts(words: Iterable[str]) -> str:
  """Returns a look-behind pattern: the text so far ends in one of `words`."""
  return '|'.join(
    f'{before}{re.escape(word)}'
    for word in sorted(words)
    for before in (' ', _CUT)
  )


def _not_after(words: Iterable[str]) -> str:
  return f'(?<!{_starts(words)})'
