"""Documents from each kind of input, and one clear line for each bad one."""

import functools
import gzip
import importlib
import json
import os
import pathlib
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from gpt1_jax.corpus import documents, inputs
from gpt1_jax.errors import UserError

# Test names contain the bytes, which must not depend on the time.
_GZIP = functools.partial(gzip.compress, mtime=0)


def _read(*specs: object, field: str = 'text') -> list[tuple[str, str]]:
  """Returns source and text of every document."""
  return [
    (document.source, document.text())
    for document in documents.read_all(inputs.find(map(str, specs)), field)
  ]


def _refused(*specs: object, field: str = 'text') -> str:
  with pytest.raises(UserError) as caught:
    _read(*specs, field=field)
  message = str(caught.value)
  assert '\n' not in message
  return message


def _jsonl(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
  data = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
  return path


def _zstd(data: bytes) -> bytes:
  return pyarrow.compress(data, codec='zstd', asbytes=True)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
  """Skips hidden files silently, and reports the other files that it skips.

  A linked folder is followed, and each folder is read once.
  """
  for name, content in {
    'b.txt': 'second',
    'a.txt': 'first',
    'c.txt.gz': gzip.compress(b'third'),
    'd.jsonl.zst': _zstd(b'{"text": "fourth"}'),
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
  found = _read(top)
  assert [text for _, text in found] == texts
  names = ['a.txt', 'b.txt', 'c.txt.gz', 'd.jsonl.zst:1', 'sub/EMMA.TXT']
  names.append('t/e.txt')
  assert [source for source, _ in found] == [f'{top}/{name}' for name in names]
  unread = [os.path.relpath(name, top) for name in inputs.unread([str(top)])]
  assert unread == ['in/x', 'pipe.txt', 'sub/notes.md', 'y.json', 'z.jsonl.zst']
  assert 'not a file' in _refused(top / 'pipe.txt')


def test_globs_repeats_and_mixtures(tmp_path):
  for name in ('a.txt', 'b.txt', 'c.txt'):
    (tmp_path / name).write_text(name)
  rows = _jsonl(tmp_path / 'r.jsonl', [{'text': 'row'}])
  found = _read(rows, tmp_path / '[bc].txt', tmp_path / 'b.txt', tmp_path)
  assert [text for _, text in found] == ['row', 'b.txt', 'c.txt', 'a.txt']


def test_byte_order_mark_and_line_ends(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('\ufeffcafé\r\nau lait\r\n'.encode())
  assert _read(path) == [(str(path), 'café\r\nau lait\r\n')]
  path = tmp_path / 'r.jsonl'
  path.write_bytes('\ufeff{"body": "x"}\r\n\r\n{"body": "y"}'.encode())
  assert _read(path, field='body') == [(f'{path}:1', 'x'), (f'{path}:3', 'y')]


@pytest.mark.parametrize('name', ['r.jsonl', 'r.jsonl.gz'])
def test_json_lines(tmp_path, name):
  path = _jsonl(tmp_path / name, [{'text': 'one\ntwo'}, {'text': 'é', 'n': 1}])
  assert _read(path) == [(f'{path}:1', 'one\ntwo'), (f'{path}:2', 'é')]


def test_parquet(tmp_path):
  path = tmp_path / 'r.parquet'
  texts = [f'row {i}' for i in range(200)]
  table = pyarrow.table({'body': texts, 'other': list(range(200))})
  parquet.write_table(table, path, row_group_size=70)
  found = _read(path, field='body')
  assert found == [(f'{path}:{i + 1}', t) for i, t in enumerate(texts)]


def test_a_column_name_that_is_not_utf_8_is_named(tmp_path):
  path = tmp_path / 'r.parquet'
  parquet.write_table(pyarrow.table({'text': ['one'], 'éé': ['1']}), path)
  path.write_bytes(path.read_bytes().replace('éé'.encode(), b'\xff' * 4))
  assert f'{path}: not a readable Parquet file' in _refused(path)


def test_python_reference_is_in_sorted_order():
  found = _read('builtin:python-reference')
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
    'a.txt.gz': _GZIP(bytes(10**8)),
    'a.txt.zst': _zstd(bytes(10**8)),
    'a.jsonl.gz': _GZIP(bytes(10**8)),
    'a.jsonl': row % b'one' + b'\n' + row % (b'x' * 1000),
  }.items():
    (tmp_path / name).write_bytes(data)
    assert 'more than 1,000 bytes of text in one doc' in _refused(
      tmp_path / name
    )
  parquet.write_table(
    pyarrow.table({'text': ['x' * 1001]}), tmp_path / 'a.parquet'
  )
  assert 'a.parquet:1: more than 1,000' in _refused(tmp_path / 'a.parquet')
  (tmp_path / 'a.txt').write_bytes(b'x' * 1000)
  assert len(_read(tmp_path / 'a.txt')[0][1]) == 1000


@pytest.mark.parametrize('name', ['r.jsonl', 'r.jsonl.gz', 'r.parquet', 'txt'])
def test_progress_adds_up_to_the_bytes_on_disk(tmp_path, name):
  rows = [{'text': f'{i} ' * 1000} for i in range(100)]
  if name == 'txt':
    for i, row in enumerate(rows):
      (tmp_path / f'{i}.txt').write_text(row['text'])
  elif name.endswith('parquet'):
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
  else:
    _jsonl(tmp_path / name, rows)
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


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('a.txt', b'', 'a.txt: empty'),
    ('a.txt', b' \r\n\t', 'a.txt: empty'),
    ('a.txt', b'caf\xe9 au lait', 'a.txt: not UTF-8 at byte 3 (0xe9)'),
    ('a.txt', '\ufeffa'.encode('utf-16'), 'a.txt: not UTF-8 at byte 0'),
    ('a.txt', b'\xef\xbb\xbfab\xff', 'a.txt: not UTF-8 at byte 5 (0xff)'),
    ('a.txt.gz', b'not gzip at all', 'a.txt.gz: damaged file'),
    ('a.txt.gz', _GZIP(b'x' * 9999)[:-9], 'a.txt.gz: damaged file'),
    ('a.txt.gz', _GZIP(b'x' * 9999)[:10], 'a.txt.gz: damaged file'),
    ('a.txt.zst', _zstd(b'x' * 9999)[:-3], 'a.txt.zst: damaged file'),
    ('a.jsonl.zst', b'not zstd', 'a.jsonl.zst: damaged file'),
    ('a.txt.gz', _GZIP(b''), 'a.txt.gz: empty'),
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
    ('a.jsonl.gz', _GZIP(b'{"text": "x"}\n' * 999)[:-9], 'gz: damaged file'),
    ('a.parquet', b'PAR1 but no more', 'a.parquet: not a readable Parquet'),
    ('a.parquet', b'', 'a.parquet: not a readable Parquet'),
    ('a.csv', b'x', 'not a file of a known kind'),
  ],
)
def test_bad_files(tmp_path, name, data, words):
  (tmp_path / name).write_bytes(data)
  assert words in _refused(tmp_path / name)


def test_parquet_without_the_column_or_without_rows(tmp_path):
  path = tmp_path / 'a.parquet'
  parquet.write_table(pyarrow.table({'body': ['x'], 'n': [1]}), path)
  assert "no column 'text' (it has body, n)" in _refused(path)
  assert "field 'n' holds int, not text" in _refused(path, field='n')
  schema = pyarrow.schema([('text', pyarrow.string())])
  parquet.write_table(schema.empty_table(), path)
  assert 'empty' in _refused(path)
  parquet.write_table(pyarrow.table({'text': ['x', None]}), path)
  assert f"{path}:2: field 'text' holds null" in _refused(path)
  parquet.write_table(pyarrow.table({'text': ['é'.encode(), b'\xff']}), path)
  assert f'{path}:2: not UTF-8 at byte 0 (0xff)' in _refused(path)
  data = pyarrow.array([b'good', b'b\xffd'])
  text = pyarrow.Array.from_buffers(pyarrow.string(), 2, data.buffers())
  parquet.write_table(pyarrow.table({'text': text}), path)
  assert f'{path}:2: not UTF-8 at byte 1 (0xff)' in _refused(path)


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
  assert words in _refused(spec)


def test_an_empty_folder(tmp_path):
  assert 'holds no file to read' in _refused(tmp_path)


def test_a_file_with_a_colon_in_its_name(tmp_path, monkeypatch):
  (tmp_path / 'part:1.txt').write_text('x')
  monkeypatch.chdir(tmp_path)
  assert _read('part:1.txt') == [('part:1.txt', 'x')]


_BUILDER = """
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds


class Gpt1Shelf(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  pkg_dir_path = pathlib.Path(sys.argv[0]).parent

  def _info(self):
    features = {'body': tfds.features.Text(), 'n': np.int64}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield i, {'body': f'book {i}: caf\\xe9', 'n': i}


Gpt1Shelf(
  data_dir=sys.argv[1], file_format='array_record'
).download_and_prepare()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # raised by TFDS and its imports
def test_tfds(tmp_path, monkeypatch):
  """Reads a data set that our own builder made, without TensorFlow."""
  (tmp_path / 'package').mkdir()
  script = tmp_path / 'package' / 'build.py'
  script.write_text(_BUILDER)
  data = tmp_path / 'data'
  subprocess.run([sys.executable, script, data], check=True, timeout=120)
  # TFDS reads the variable TFDS_DATA_DIR once, when it is imported.
  constants = importlib.import_module('tensorflow_datasets.core.constants')
  monkeypatch.setattr(constants, 'DATA_DIR', str(data))
  found = _read('tfds:gpt1_shelf:train:body')
  assert {text for _, text in found} == {f'book {i}: café' for i in range(6)}
  assert found[0][0] == 'tfds:gpt1_shelf:train:body#0'
  assert _read('tfds:gpt1_shelf:train', field='body')[3][1] == found[3][1]
  part = _read('tfds:gpt1_shelf:train[1:3]:body')
  assert [text for _, text in part] == [text for _, text in found[1:3]]
  size = inputs.measure(['tfds:gpt1_shelf:train:body'])
  assert (size['files'], size['bytes']) == (0, 0)
  for spec, words in (
    ('tfds:gpt1_shelf:train', "no text in field 'text' (it has"),
    ('tfds:gpt1_shelf:train:n', "field 'n' holds int"),
    ('tfds:gpt1_shelf:test', 'cannot be read'),
    ('tfds:gpt1_no_such_thing:train', 'cannot be read'),
  ):
    message = _refused(spec)
    assert message.startswith(spec)
    assert words in message


@pytest.fixture
def hf_folder(tmp_path, monkeypatch) -> pathlib.Path:
  """A data set of two configurations, as the hub would serve it."""
  datasets = pytest.importorskip('datasets', reason='needs the hf extra')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
  datasets.disable_progress_bars()
  folder = tmp_path / 'shelf'
  (folder / 'a').mkdir(parents=True)
  _jsonl(folder / 'train.jsonl', [{'text': f'é {i}', 'n': i} for i in range(5)])
  _jsonl(folder / 'a' / 'x.jsonl', [{'text': 'other'}])
  (folder / 'README.md').write_text(
    '---\nconfigs:\n- {config_name: default, data_files: train.jsonl}\n'
    '- {config_name: small, data_files: a/x.jsonl}\n---\n'
  )
  return folder


@pytest.mark.filterwarnings('ignore')  # raised by datasets and its imports
def test_hugging_face_data_sets(hf_folder):
  spec = f'hf:{hf_folder}:train'
  assert _read(spec) == [(f'{spec}#{i}', f'é {i}') for i in range(5)]
  assert _read(f'hf:{hf_folder}:train[1:3]:text')[1][1] == 'é 2'
  assert _read(f'hf:{hf_folder}/small:train')[0][1] == 'other'
  for spec, words in (
    (f'hf:{hf_folder}:train:n', "field 'n' holds int"),
    (f'hf:{hf_folder}:train:none', "no text in field 'none' (it has text, n)"),
    (f'hf:{hf_folder}:test', 'cannot be read (Unknown split'),
    (f'hf:{hf_folder}/none:train', 'cannot be read (BuilderConfig'),
  ):
    assert words in _refused(spec)


def test_a_missing_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  assert "pip install 'gpt1_jax[hf]'" in _refused('hf:a/b:train')


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read every file')
def test_a_file_that_may_not_be_read(tmp_path):
  (tmp_path / 'a.txt').write_text('x')
  (tmp_path / 'a.txt').chmod(0)
  with pytest.raises(PermissionError):
    _read(tmp_path)


def test_a_file_whose_name_is_not_utf8_is_refused(tmp_path):
  (tmp_path / '\udcff.txt').write_text('text')
  assert '\\xff.txt: not UTF-8; rename it' in _refused(tmp_path)
