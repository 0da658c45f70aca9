"""Writes files of documents and reads documents of every kind of input."""

import functools
import gzip
import json
import pathlib

import pyarrow
import pytest

from gpt1_jax.corpus import documents, inputs
from gpt1_jax.errors import UserError

# Test names contain the bytes, which must not depend on the time.
GZIP = functools.partial(gzip.compress, mtime=0)


def read(*specs: object, field: str = 'text') -> list[tuple[str, str]]:
  """Returns source and text of every document."""
  return [
    (document.source, document.text())
    for document in documents.read_all(inputs.find(map(str, specs)), field)
  ]


def refused(*specs: object, field: str = 'text') -> str:
  """Returns the one line that refuses the specs."""
  with pytest.raises(UserError) as caught:
    read(*specs, field=field)
  message = str(caught.value)
  assert '\n' not in message
  return message


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
  """Writes JSON lines, packed if the name ends in .gz; returns `path`."""
  data = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


def zstd(data: bytes) -> bytes:
  """Returns the data packed with zstd."""
  return pyarrow.compress(data, codec='zstd', asbytes=True)
