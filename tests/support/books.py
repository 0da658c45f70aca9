"""Made-up books, and small settings to prepare them with."""

import pathlib
import random
from collections.abc import Iterable

from gpt1_jax.corpus import pipeline

# What `prepare` adds to meta.json, of a corpus that is not there.
PROVENANCE = {
  'tokenizer': {
    'kind': 'sentencepiece',
    'fingerprint': 'f',
    'vocab_size': 65536,
    'merges': 1,
    'unknown_id': 0,
    'document_id': 1,
    'newline_id': 2,
    'normalization': 'n',
    'unknown': 'u',
  },
  'cleaning': 1,
  'validation_fraction': 0.5,
  'settings': {},
  'input': {'files': 1, 'bytes': 1, 'sha256': 's'},
}


def made_up_words(seed: int, count: int) -> str:
  """Returns words of a few letters; the same for the same seed."""
  draw = random.Random(seed)
  letters = 'etaoinshrdlu'
  return ' '.join(
    ''.join(draw.choices(letters, k=draw.randrange(1, 8))) for _ in range(count)
  )


def write_books(path: pathlib.Path, seeds: Iterable[int]) -> pathlib.Path:
  """Writes a book of ten paragraphs for each seed; returns the folder."""
  path.mkdir(exist_ok=True)
  for seed in seeds:
    lines = [made_up_words(seed * 100 + i, 40) for i in range(10)]
    (path / f'{seed:03d}.txt').write_text('\n'.join(lines) + '.')
  return path


def settings(inputs: Iterable[object], **changes) -> pipeline.PrepareSettings:
  """Returns settings for a small corpus."""
  values = {
    'inputs': tuple(map(str, inputs)),
    'text_field': 'text',
    'merges': 60,
    'tokenizer': None,
    'tokenizer_sample_mb': 1000,
    'validation_fraction': 0.25,
    'hold_out': (),
    'shard_tokens': 1000,
  }
  return pipeline.PrepareSettings(**{**values, **changes})
