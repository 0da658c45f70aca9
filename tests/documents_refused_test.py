"""Each bad document or input is refused in one clear line."""

import os

import pyarrow
import pytest
from pyarrow import parquet

from tests.support.document_files import GZIP, read, refused, zstd


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('a.txt', b'', 'a.txt: empty'),
    ('a.txt', b' \r\n\t', 'a.txt: empty'),
    ('a.txt', b'caf\xe9 au lait', 'a.txt: not UTF-8 at byte 3 (0xe9)'),
    ('a.txt', '\ufeffa'.encode('utf-16'), 'a.txt: not UTF-8 at byte 0'),
    ('a.txt', b'\xef\xbb\xbfab\xff', 'a.txt: not UTF-8 at byte 5 (0xff)'),
    ('a.txt.gz', b'not gzip at all', 'a.txt.gz: damaged file'),
    ('a.txt.gz', GZIP(b'x' * 9999)[:-9], 'a.txt.gz: damaged file'),
    ('a.txt.gz', GZIP(b'x' * 9999)[:10], 'a.txt.gz: damaged file'),
    ('a.txt.zst', zstd(b'x' * 9999)[:-3], 'a.txt.zst: damaged file'),
    ('a.jsonl.zst', b'not zstd', 'a.jsonl.zst: damaged file'),
    ('a.txt.gz', GZIP(b''), 'a.txt.gz: empty'),
    ('a.jsonl', b'', 'a.jsonl: empty'),
    ('a.jsonl', b'{"text": "x"}\n{"text": "cu', 'a.jsonl:2: not a JSON line'),
    ('a.jsonl', b'{"text": "x"}\n\x00\x01\n', 'a.jsonl:2: not a JSON line'),
    (
      'a.jsonl',
      b'{"text": "x", "text": "y"}\n',
      "a.jsonl:1: not a JSON line (the key 'text' appears twice in one object)",
    ),
    ('a.jsonl', b'{"text": "x"}\n{"t": "y"}', "2: no text in field 'text' (it"),
    ('a.jsonl', b'{"text": null}', "1: field 'text' holds null, not text"),
    ('a.jsonl', b'{"text": ["x"]}', "field 'text' holds list, not text"),
    (
      'a.jsonl',
      b'{"text": "x", "n": ' + b'1' * 5000,
      '1: not a JSON line (Exc',
    ),
    ('a.jsonl', b'[' * 100_000, 'a.jsonl:1: not a JSON line (maximum recurs'),
    (
      'a.jsonl',
      b'\xef\xbb\xbf{"text": "\xff"}',
      'a.jsonl:1: not UTF-8 at byte 13 (0xff)',
    ),
    ('a.jsonl', b'["text"]', 'a.jsonl:1: no text in field'),
    ('a.jsonl', b'{"te\\nxt": "x"}', r'(it has te\nxt)'),
    ('a.jsonl', b'{"text": "x"}\n{"text": "\xff"}', 'not UTF-8 at byte 24'),
    ('a.jsonl.gz', GZIP(b'{"text": "x"}\n' * 999)[:-9], 'gz: damaged file'),
    ('a.parquet', b'PAR1 but no more', 'a.parquet: not a readable Parquet'),
    ('a.parquet', b'', 'a.parquet: not a readable Parquet'),
    ('a.csv', b'x', 'not a file of a known kind'),
  ],
)
def test_bad_files(tmp_path, name, data, words):
  (tmp_path / name).write_bytes(data)
  assert words in refused(tmp_path / name)


def test_a_column_name_that_is_not_utf_8_is_named(tmp_path):
  path = tmp_path / 'r.parquet'
  parquet.write_table(pyarrow.table({'text': ['one'], 'éé': ['1']}), path)
  path.write_bytes(path.read_bytes().replace('éé'.encode(), b'\xff' * 4))
  assert f'{path}: not a readable Parquet file' in refused(path)


def test_parquet_without_the_column_or_without_rows(tmp_path):
  path = tmp_path / 'a.parquet'
  parquet.write_table(pyarrow.table({'body': ['x'], 'n': [1]}), path)
  assert "no column 'text' (it has body, n)" in refused(path)
  assert "field 'n' holds int, not text" in refused(path, field='n')
  schema = pyarrow.schema([('text', pyarrow.string())])
  parquet.write_table(schema.empty_table(), path)
  assert 'empty' in refused(path)
  parquet.write_table(pyarrow.table({'text': ['x', None]}), path)
  assert f"{path}:2: field 'text' holds null" in refused(path)
  parquet.write_table(pyarrow.table({'text': ['é'.encode(), b'\xff']}), path)
  assert f'{path}:2: not UTF-8 at byte 0 (0xff)' in refused(path)
  data = pyarrow.array([b'good', b'b\xffd'])
  text = pyarrow.Array.from_buffers(pyarrow.string(), 2, data.buffers())
  parquet.write_table(pyarrow.table({'text': text}), path)
  assert f'{path}:2: not UTF-8 at byte 1 (0xff)' in refused(path)


@pytest.mark.parametrize(
  ('spec', 'words'),
  [
    ('nowhere', 'no such file or folder'),
    ('nowhere/*.txt', 'no such file or folder'),
    ('builtin:java', 'or builtin:python-reference'),
    ('s3://bucket/x.txt', 's3://bucket/x.txt: unknown'),
    ('tfds:imdb', 'tfds:NAME[/CONFIG]:SPLIT[:FIELD]'),
    ('tfds:a:b:c:d', 'tfds:NAME[/CONFIG]:SPLIT[:FIELD]'),
    ('hf:a', 'hf:NAME[/CONFIG]:SPLIT[:FIELD]'),
  ],
)
def test_bad_inputs(spec, words):
  assert words in refused(spec)


def test_an_empty_folder(tmp_path):
  assert 'holds no file to read' in refused(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read every file')
def test_a_file_that_may_not_be_read(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  (tmp_path / 'a.txt').chmod(0)
  with pytest.raises(PermissionError):
    read(tmp_path)


def test_a_file_whose_name_is_not_utf8_is_refused(tmp_path):
  (tmp_path / '\udcff.txt').write_text('text')
  assert '\\xff.txt: not UTF-8; rename it' in refused(tmp_path)
