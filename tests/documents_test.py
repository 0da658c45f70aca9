"""Documents from each kind of file."""

import gzip
import os

import pyarrow
import pytest
from pyarrow import parquet

from gpt1_jax.corpus import documents, inputs
from tests.support.document_files import (
  GZIP,
  read,
  refused,
  write_jsonl,
  zstd,
)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
  """Skips hidden files silently, and reports the other files that it skips.

  A linked folder is followed, and each folder is read once.
  """
  for name, content in {
    'b.txt': 'second',
    'a.txt': 'first',
    'c.txt.gz': gzip.compress(b'third'),
    'd.jsonl.zst': zstd(b'{"text": "fourth"}'),
    'sub/EMMA.TXT': 'fifth',
    'sub/notes.md': 'not read',
    'y.json': '[]',
    'z.jsonl.zst': 'zz',
    'folder.txt/._x.txt': 'hidden',
    '.ipynb_checkpoints/x.txt': 'hidden',
    '__MACOSX/x.txt': 'hidden',
    'elsewhere/e.txt': 'sixth',
    'in/x': '',
  }.items():
    path = tmp_path / 'in' / name
    path = tmp_path / name if name.startswith('elsewhere') else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
  top = tmp_path / 'in'
  (top / 't').symlink_to(tmp_path / 'elsewhere')
  (top / 'u').symlink_to(tmp_path / 'elsewhere')
  (top / 'again').symlink_to(top)
  os.mkfifo(top / 'pipe.txt')
  texts = ['first', 'second', 'third', 'fourth', 'fifth', 'sixth']
  found = read(top)
  assert [text for _, text in found] == texts
  names = ['a.txt', 'b.txt', 'c.txt.gz', 'd.jsonl.zst:1', 'sub/EMMA.TXT']
  names.append('t/e.txt')
  assert [source for source, _ in found] == [f'{top}/{name}' for name in names]
  unread = [os.path.relpath(name, top) for name in inputs.unread([str(top)])]
  assert unread == ['in/x', 'pipe.txt', 'sub/notes.md', 'y.json', 'z.jsonl.zst']
  assert 'not a file' in refused(top / 'pipe.txt')


def test_globs_repeats_and_mixtures(tmp_path):
  for name in ('a.txt', 'b.txt', 'c.txt'):
    (tmp_path / name).write_text(name)
  rows = write_jsonl(tmp_path / 'r.jsonl', [{'text': 'row'}])
  found = read(rows, tmp_path / '[bc].txt', tmp_path / 'b.txt', tmp_path)
  assert [text for _, text in found] == ['row', 'b.txt', 'c.txt', 'a.txt']


def test_byte_order_mark_and_line_ends(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffcafé\r\nau lait\r\n'.encode())
  assert read(path) == [(str(path), 'café\r\nau lait\r\n')]
  path = tmp_path / 'r.jsonl'
  path.write_bytes('\ufeff{"body": "x"}\r\n\r\n{"body": "y"}'.encode())
  assert read(path, field='body') == [(f'{path}:1', 'x'), (f'{path}:3', 'y')]


@pytest.mark.parametrize('name', ['r.jsonl', 'r.jsonl.gz'])
def test_json_lines(tmp_path, name):
  path = write_jsonl(
    tmp_path / name, [{'text': 'one\ntwo'}, {'text': 'é', 'n': 1}]
  )
  assert read(path) == [(f'{path}:1', 'one\ntwo'), (f'{path}:2', 'é')]


def test_parquet(tmp_path):
  path = tmp_path / 'r.parquet'
  texts = [f'row {i}' for i in range(200)]
  table = pyarrow.table({'body': texts, 'other': list(range(200))})
  parquet.write_table(table, path, row_group_size=70)
  found = read(path, field='body')
  assert found == [(f'{path}:{i + 1}', t) for i, t in enumerate(texts)]


def test_python_reference_is_in_sorted_order():
  found = read('builtin:python-reference')
  sources = [source for source, _ in found]
  assert 'builtin:python-reference#with' in sources
  assert sources == sorted(sources)
  assert len(found) > 50


def test_one_document_is_bounded(tmp_path, monkeypatch):
  """A gigabyte of zeros is refused after the bound."""
  assert documents.MAX_BYTES == 100_000_000
  monkeypatch.setattr(documents, 'MAX_BYTES', 1000)
  row = b'{"text": "%s"}'
  for name, data in {
    'a.txt': bytes(1001),
    'a.txt.gz': GZIP(bytes(10**8)),
    'a.txt.zst': zstd(bytes(10**8)),
    'a.jsonl.gz': GZIP(bytes(10**8)),
    'a.jsonl': row % b'one' + b'\n' + row % (b'x' * 1000),
  }.items():
    (tmp_path / name).write_bytes(data)
    assert 'more than 1,000 bytes of text in one doc' in refused(
      tmp_path / name
    )
  parquet.write_table(
    pyarrow.table({'text': ['x' * 1001]}), tmp_path / 'a.parquet'
  )
  assert 'a.parquet:1: more than 1,000' in refused(tmp_path / 'a.parquet')
  (tmp_path / 'a.txt').write_bytes(b'x' * 1000)
  assert len(read(tmp_path / 'a.txt')[0][1]) == 1000


@pytest.mark.parametrize('name', ['r.jsonl', 'r.jsonl.gz', 'r.parquet', 'txt'])
def test_progress_adds_up_to_the_bytes_on_disk(tmp_path, name):
  rows = [{'text': f'{i} ' * 1000} for i in range(100)]
  if name == 'txt':
    for i, row in enumerate(rows):
      (tmp_path / f'{i}.txt').write_text(row['text'])
  elif name.endswith('parquet'):
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
  else:
    write_jsonl(tmp_path / name, rows)
  specs = [str(tmp_path), 'builtin:python-reference']
  total = inputs.measure(specs)['bytes']
  found = documents.read_all(inputs.find(specs), 'text')
  read = sum(document.disk_bytes for document in found)
  assert total - 100 < read <= total


def test_inputs_are_measured(tmp_path, monkeypatch):
  from pydoc_data import topics

  (tmp_path / 'a.txt').write_text('abc')
  monkeypatch.setattr(topics, 'topics', {'a': 'four', 'b': 'five words'})
  specs = [str(tmp_path), 'builtin:python-reference', 'tfds:x:train', 'hf:x:y']
  size = inputs.measure(specs)
  assert (size['files'], size['bytes']) == (2, 3 + 14)
  digests = {size['sha256']}
  (tmp_path / 'a.txt').write_text('abd')  # as long as before
  digests.add(inputs.measure(specs)['sha256'])
  (tmp_path / 'a.txt').rename(tmp_path / 'b.txt')
  digests.add(inputs.measure(specs)['sha256'])
  assert len(digests) == 3


def test_rows_are_read_one_at_a_time(tmp_path):
  path = tmp_path / 'r.jsonl'
  path.write_text('{"text": "good"}\n' + 'no json\n' * 1000)
  found = documents.read_all(inputs.find([str(path)]), 'text')
  assert next(found).text() == 'good'


def test_a_file_with_a_colon_in_its_name(tmp_path, monkeypatch):
  (tmp_path / 'part:1.txt').write_text('x')
  monkeypatch.chdir(tmp_path)
  assert read('part:1.txt') == [('part:1.txt', 'x')]
