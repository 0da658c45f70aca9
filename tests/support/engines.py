"""Prepares inputs of every form with both engines; needs Apache Beam."""

import functools
import gzip
import json
import pathlib

import pyarrow as pa
from pyarrow import parquet

from gpt1_jax.corpus import beam, local_engine, preparation
from tests.support import books as library, commands

BEAM = '--engine=beam'
prepare = functools.partial(commands.succeed, 'prepare')
refused = functools.partial(commands.fail, 'prepare')


def pages() -> list[str]:
  """Returns prose that every CPython carries, about 250 kB, in 12 texts."""
  from pydoc_data import topics

  found = [text for _, text in sorted(topics.topics.items())]
  return ['\n'.join(found[i::12]) for i in range(12)]


def files(directory: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of each file by its name."""
  return {file.name: file.read_bytes() for file in directory.iterdir()}


def write_mixed(path: pathlib.Path, books: list[str]) -> list[str]:
  """Writes inputs of every form, with copies within and across them.

  Args:
    path: the directory, which is created.
    books: five texts or more.

  Returns:
    Specs, whose order is not the files'.
  """
  (path / 'texts').mkdir(parents=True)
  for i, book in enumerate(books[:3]):
    (path / 'texts' / f'{i}.txt').write_text(book, 'utf-8')
  # Once more, cut differently and packed: the same text after cleaning.
  with gzip.open(path / 'texts' / '0again.txt.gz', 'wt') as file:
    file.write(books[1].replace('\n', '\r\n') + '\n\n')
  # Paragraphs as documents; some come back in the Parquet file.
  rows = [
    line for book in books[3:4] for line in book.split('\n') if line.strip()
  ]
  lines = [json.dumps({'text': row}) for row in rows]
  lines.insert(3, '')  # blank lines count in a source's line number
  with gzip.open(path / 'rows.jsonl.gz', 'wt') as file:
    file.write('\n'.join(lines))
  last = [*books[4:], books[0], *rows[:40], *rows[:7]]
  parquet.write_table(pa.table({'text': last}), path / 'z.parquet')
  specs = ('z.parquet', 'texts', 'rows.jsonl.gz', 'texts/1.txt')
  return [str(path / spec) for spec in specs]


def settings(inputs: list[str], **changes: object):
  """Returns settings of `prepare` for a small vocabulary."""
  values = {'merges': 80, 'validation_fraction': 0.3, **changes}
  return library.settings(inputs, **values)


def fill(directory: pathlib.Path, settings, options: str = '') -> None:
  """Prepares on Beam, in this process."""
  directory.mkdir(parents=True, exist_ok=True)
  preparation.fill(directory, settings, beam.engine(options))


def both(path: pathlib.Path, settings) -> dict[str, bytes]:
  """Runs both engines in this process; returns the files, which are equal."""
  (path / 'local').mkdir(parents=True)
  engine = local_engine.LocalEngine(1)
  preparation.fill(path / 'local', settings, engine)
  fill(path / 'beam', settings)
  found = files(path / 'beam')
  assert found == files(path / 'local')
  return found
