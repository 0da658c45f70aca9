"""Writes shards of random documents."""

import pathlib

import numpy as np

from gpt1_jax.corpus import metadata, shards
from tests.support import books

DOCUMENTS = (5, 1, 12, 0, 30, 7)  # tokens of each


def write(path: pathlib.Path, shard_tokens: int = 10) -> dict[str, np.ndarray]:
  """Writes prepared data of random documents; returns each split's tokens."""
  path.mkdir()
  streams, encoded = {}, []
  for n, split in enumerate(shards.SPLITS):
    rng = np.random.default_rng(n)
    parts = [rng.integers(0, 65536, k, np.uint16) for k in DOCUMENTS]
    streams[split] = np.concatenate(parts)
    for part in parts:
      row = metadata.DocumentRow('s', 'f', 2, split, len(part))
      encoded.append((row, part))
  duplicate = metadata.DocumentRow('s', 'f', 0, 'duplicate')
  encoded.append((duplicate, np.array([], np.uint16)))
  splits = shards.write(path, shard_tokens, encoded)
  shards.write_meta(path, {'splits': splits, **books.PROVENANCE})
  return streams
