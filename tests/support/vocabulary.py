"""Small tokenizers for tests: a BPE of given lines, a released-style pair."""

import json
import pathlib
from collections.abc import Iterable

from gpt1_jax.corpus import openai_tokenizer, sentencepiece_tokenizer


def train_bpe(
  lines: Iterable[str], merges: int
) -> sentencepiece_tokenizer.SentencePieceTokenizer:
  """Trains a tokenizer on cleaned lines."""
  counts = sentencepiece_tokenizer.count_words(lines)
  return sentencepiece_tokenizer.train(counts, merges)


def write_openai(folder: pathlib.Path) -> pathlib.Path:
  """Writes a small vocabulary in the released format; returns the folder.

  It spells printable ASCII without upper case, a few other letters and the
  newline; each merge makes the next row, as in the released files.
  """
  characters = [*map(chr, range(33, 65)), *map(chr, range(91, 127)), 'é', 'ß']
  pieces = ['<unk>', *characters, *(c + '</w>' for c in characters)]
  pieces.append('\n</w>')
  words = (
    'the', 'of', 'and', 'to', 'a', 'in', 'that', 'house', 'river', 'fox',
    'dog', 'there', 'then', 'these', 'they', 'was', 'well', 'said', 'she',
    'sure', 'over', 'quick', 'brown', 'end', 'old', "n't", "'s", '...',
  )  # fmt: skip
  merges: list[tuple[str, str]] = []
  for word in words:
    symbols = [*word[:-1], word[-1] + '</w>']
    while len(symbols) > 1:
      pair = (symbols[0], symbols[1])
      symbols[:2] = [''.join(pair)]
      if pair not in merges:
        merges.append(pair)
  pieces += [''.join(pair) for pair in merges]
  encoder = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / openai_tokenizer.ENCODER_FILE).write_text(json.dumps(encoder))
  lines = ['#version: 0.2', *map(' '.join, merges), '']
  (folder / openai_tokenizer.MERGES_FILE).write_text('\n'.join(lines))
  return folder
