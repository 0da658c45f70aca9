"""`prepare --engine=beam` writes the bytes and errors of the local engine."""

import functools
import gzip
import json
import os
import pathlib
import shutil

import pytest

pytest.importorskip(
  'apache_beam', reason="needs Apache Beam: pip install 'gpt1_jax[beam]'"
)

import numpy as np
import pyarrow as pa
from apache_beam.io import filesystem, filesystems, localfilesystem
from pyarrow import parquet

from gpt1_jax.corpus import beam, local_engine, preparation, shards
from gpt1_jax.corpus.beam import pipelines, runner
from gpt1_jax.errors import UserError
from tests.support import books as library, commands, vocabulary

_BEAM = '--engine=beam'


_prepare = functools.partial(commands.succeed, 'prepare')
_refused = functools.partial(commands.fail, 'prepare')


def _files(directory: pathlib.Path) -> dict[str, bytes]:
  return {file.name: file.read_bytes() for file in directory.iterdir()}


def _write_mixed(path: pathlib.Path, books: list[str]) -> list[str]:
  """Inputs of every form, with copies within and across them.

  Args:
    path: an empty directory.
    books: five texts or more.

  Returns:
    Specs, whose order is not the files'.
  """
  (path / 'texts').mkdir()
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


def _settings(inputs: list[str], **changes: object):
  values = {'merges': 80, 'validation_fraction': 0.3, **changes}
  return library.settings(inputs, **values)


def _fill(directory: pathlib.Path, settings, options: str = '') -> None:
  directory.mkdir(parents=True, exist_ok=True)
  preparation.fill(directory, settings, beam.engine(options))


def _both(path: pathlib.Path, settings) -> dict[str, bytes]:
  """Runs both engines in this process; returns the files, which are equal."""
  (path / 'local').mkdir(parents=True)
  engine = local_engine.LocalEngine(1)
  preparation.fill(path / 'local', settings, engine)
  _fill(path / 'beam', settings)
  found = _files(path / 'beam')
  assert found == _files(path / 'local')
  return found


@pytest.fixture(scope='module')
def pages() -> list[str]:
  """Prose that every CPython carries, about 250 kB, in 12 texts."""
  from pydoc_data import topics

  found = [text for _, text in sorted(topics.topics.items())]
  return ['\n'.join(found[i::12]) for i in range(12)]


@pytest.fixture
def mixed(pages, tmp_path) -> list[str]:
  (tmp_path / 'in').mkdir()
  return _write_mixed(tmp_path / 'in', pages)


@pytest.mark.slow
def test_real_books_of_every_form(shared_data, tmp_path):
  """Runs the command, with a sample smaller than the text."""
  files = sorted((shared_data / 'books').glob('*.txt'))[3:52:8]
  (tmp_path / 'in').mkdir()
  texts = [file.read_text('utf-8-sig') for file in files]
  inputs = _write_mixed(tmp_path / 'in', texts)
  flags = [f'--input={spec}' for spec in inputs]
  flags += ['--merges=300', '--validation_fraction=0.2']
  flags += ['--shard_tokens=70001', '--tokenizer_sample_mb=1']
  local, beam_output = tmp_path / 'local', tmp_path / 'beam'
  said = _prepare(*flags, f'--output={local}').splitlines()[1:3]
  again = _prepare(*flags, f'--output={beam_output}', _BEAM).splitlines()[1:3]
  assert again == said
  assert _files(beam_output) == _files(local)
  meta = shards.read_meta(beam_output)
  assert len(meta['splits']['train']['shards']) > 10
  assert meta['splits']['train']['words'] * 5 > 2_000_000  # more than a sample
  splits = [row.split for row in shards.read_documents(beam_output)]
  assert splits.count('duplicate') > 47


@pytest.mark.parametrize('shard_tokens', [997, 50])
def test_the_bytes_of_the_local_engine(mixed, tmp_path, shard_tokens):
  found = _both(tmp_path, _settings(mixed, shard_tokens=shard_tokens))
  assert len(found) > 100
  splits = [row.split for row in shards.read_documents(tmp_path / 'beam')]
  assert splits.count('duplicate') > 47


def test_documents_are_held_out_by_name(mixed, tmp_path):
  changes = {'validation_fraction': 0.0, 'hold_out': ('*:2',)}
  _both(tmp_path, _settings(mixed, **changes))
  rows = list(shards.read_documents(tmp_path / 'beam'))
  held_out = [row.source for row in rows if row.split == 'validation']
  assert held_out
  assert held_out == [
    row.source
    for row in rows
    if row.source.endswith(':2') and row.split != 'duplicate'
  ]
  changes['hold_out'] = ('*:x',)
  with pytest.raises(UserError, match=r'--hold_out=\*:x: matches the source'):
    _fill(tmp_path / 'none', _settings(mixed, **changes))


def test_a_given_tokenizer(mixed, pages, tmp_path):
  _both(tmp_path, _settings(mixed))
  given = {'merges': None, 'tokenizer': str(tmp_path / 'local')}
  _both(tmp_path / 'next', _settings(mixed[:1], **given))
  folder = vocabulary.write_openai(tmp_path / 'vocabulary')
  given = {'merges': None, 'tokenizer': f'openai:{folder}'}
  found = _both(tmp_path / 'openai', _settings(mixed[:1], **given))
  assert 'vocab_40000.bpe' in found


def test_bad_rows_are_left_out(mixed, pages, tmp_path):
  rows = tmp_path / 'in' / 'bad.jsonl'
  rows.write_text('{"text": ""}\n{"text": "good"}\n{"text": null}\nx\n')
  (tmp_path / 'in' / 'texts' / 'x.txt').write_bytes(b'\xff')
  inputs = [str(rows), *mixed]
  found = _both(tmp_path, _settings(inputs, skip_bad_rows=4.0))
  lines = found['rejected.jsonl'].decode().splitlines()
  assert [json.loads(line)['source'] for line in lines] == [
    *(f'{rows}:{i}' for i in (1, 3, 4)),
    f'{tmp_path}/in/texts/x.txt',
  ]
  with pytest.raises(UserError, match='4 bad documents so far; the first: '):
    _fill(tmp_path / 'none', _settings(inputs, skip_bad_rows=3.0))


def test_a_corpus_of_few_books_is_split(mixed, tmp_path):
  """A book is held out, or the last part of the only one."""
  _both(tmp_path / 'few', _settings(mixed[1:2], validation_fraction=1e-9))
  meta = shards.read_meta(tmp_path / 'few' / 'beam')
  assert meta['splits']['validation']['documents'] == 1
  _both(tmp_path / 'one', _settings(mixed[3:]))
  rows = shards.read_documents(tmp_path / 'one' / 'beam')
  assert [(row.source, row.split) for row in rows] == [
    (f'{mixed[3]}#{split}', split) for split in shards.SPLITS
  ]


def test_documents_are_put_in_order(tmp_path):
  def record(i, number, tokens):
    row = {'source': f'{i}:{number}', 'sha256': 'f', 'words': 1}
    row |= {'split': 'train' if tokens else 'duplicate', 'tokens': len(tokens)}
    content = np.array(tokens, shards.DTYPE).tobytes()
    return {'input': i, 'number': number, 'row': json.dumps(row),
            'content': content}  # fmt: skip

  records = [
    record(10, 0, [6, 7]),
    record(2, 11, [5]),
    record(0, 0, [1, 2, 3]),
    record(2, 2, []),
    record(2, 1, [4]),
  ]
  splits = pipelines.write_in_order(records, tmp_path, 4)
  assert splits['train']['tokens'] == 7
  assert splits['train']['documents'] == 4
  data = b''.join(
    (tmp_path / shard['name']).read_bytes()
    for shard in splits['train']['shards']
  )
  assert np.frombuffer(data, shards.DTYPE).tolist() == [*range(1, 8)]
  sources = [row.source for row in shards.read_documents(tmp_path)]
  assert sources == ['0:0', '2:1', '2:2', '2:11', '10:0']


def test_either_engine_accepts_the_output_of_the_other(pages, tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  for i, page in enumerate(pages):
    (folder / f'{i}.txt').write_text(page)
  flags = (f'--input={folder}', '--merges=60', '--validation_fraction=0.3')
  local, other = tmp_path / 'local', tmp_path / 'beam'
  _prepare(*flags, f'--output={local}')
  _prepare(*flags, f'--output={other}', _BEAM)
  before = {file: file.stat().st_mtime_ns for file in other.iterdir()}
  assert 'already complete' in _prepare(*flags, f'--output={local}', _BEAM)
  assert 'already complete' in _prepare(*flags, f'--output={other}')
  assert 'files are unchanged' in _prepare(
    f'--output={other}', '--verify', _BEAM
  )
  line = _refused(flags[0], '--merges=61', flags[2], f'--output={other}', _BEAM)
  assert 'other settings (merges)' in line
  (folder / '0.txt').write_text('something else')
  line = _refused(*flags, f'--output={other}', _BEAM)
  assert 'its input has changed' in line
  assert before == {file: file.stat().st_mtime_ns for file in other.iterdir()}
  assert sorted(os.listdir(tmp_path)) == ['beam', 'in', 'local']


@pytest.mark.parametrize(
  ('name', 'data', 'words'),
  [
    ('bad.txt', b'good until here \xff', 'not UTF-8 at byte 16 (0xff)'),
    ('bad.jsonl', b'{"text": "a"}\n{"t": 1}', "no text in field 't"),
    ('bad.txt.gz', b'\x1f\x8bnot', 'damaged file'),
    ('bad.parquet', b'PAR1', 'not a readable Parquet file'),
  ],
)
def test_a_bad_document_is_one_line_and_leaves_nothing(
  pages, tmp_path, name, data, words
):
  (tmp_path / 'good.txt').write_text(pages[0])
  (tmp_path / name).write_bytes(data)
  out = tmp_path / 'o' / 'out'
  line = _refused(f'--input={tmp_path}/*.*', f'--output={out}', _BEAM)
  assert line.startswith(f'error: {tmp_path}/{name}:')
  assert words in line
  assert 'while running' not in line
  assert not list(out.parent.iterdir())


def test_an_empty_split_or_too_many_merges(mixed, tmp_path):
  (tmp_path / 'blank.jsonl').write_text('\n\n')
  blank = [str(tmp_path / 'blank.jsonl')]
  out = tmp_path / 'out'
  for settings, words in (
    (_settings(mixed, validation_fraction=1 - 1e-9), 'the train split is emp'),
    (_settings(mixed, merges=50_000), 'this text allows only'),
    (_settings(blank), 'the input holds no document'),
  ):
    with pytest.raises(UserError, match=words):
      _fill(out, settings)
  assert not list(out.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(mixed, tmp_path):
  flags = [*(f'--input={spec}' for spec in mixed), f'--output={tmp_path}/out']
  done = commands.run_on_full_disk('prepare', *flags, _BEAM)
  assert 'nothing was written: free some' in commands.error_of(done, code=1)
  assert len(done.stderr.splitlines()) == 1
  assert os.listdir(tmp_path) == ['in']


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ('--runner=NoSuchRunner', 'Unexpected pipeline runner: NoSuchRunner'),
    ('--direct_num_workers=many', "invalid int value: 'many'"),
    ("--runner='", 'No closing quotation'),
    ('--temp_location=nosuch://b/t', 'nosuch://b/t: cannot be reached'),
  ],
)
def test_wrong_options(mixed, tmp_path, options, words):
  with pytest.raises(UserError) as refused:
    _fill(tmp_path / 'out', _settings(mixed), options)
  assert words in str(refused.value)
  assert '\n' not in str(refused.value)


def test_wrong_places(tmp_path):
  for spec, words in (
    ('nosuch://b/x', 'nosuch://b/x: cannot be reached'),
    (f'{tmp_path}/none', 'no such file or folder'),
  ):
    with pytest.raises(UserError, match=words):
      _fill(tmp_path / 'out', _settings([spec]))
  with pytest.raises(UserError, match='as a pattern'):
    _fill(tmp_path / 'a[b]', _settings(['builtin:python-reference']))


def test_errors_are_found_in_the_text_of_remote_runners():
  text = (
    'Dataflow pipeline failed. State: FAILED, Error:\n'
    'Traceback (most recent call last):\n  File "apache_beam/common.py", x\n'
    'gpt1_jax.errors.UserError: gs://b/a.txt: empty; remove it [while running '
    "'clean-ptransform-41']\n\nNote: imports"
  )
  cause = runner.find_cause(text)
  assert isinstance(cause, UserError)
  assert str(cause) == 'gs://b/a.txt: empty; remove it'
  cause = runner.find_cause(
    'RuntimeError: OSError: [Errno 28] No space left on device [while running '
    "'write shard']"
  )
  assert (cause.errno, cause.strerror) == (28, 'No space left on device')
  text = "X\nFileNotFoundError: [Errno 2] No such file: '/a b'"
  cause = runner.find_cause(text)
  assert (cause.errno, cause.filename) == (2, '/a b')
  assert runner.find_cause('KeyError: 3') is None


class _Bucket(localfilesystem.LocalFileSystem):
  """bucket://NAME/... lies in a folder; nothing else can read such a path."""

  root: pathlib.Path

  @classmethod
  def scheme(cls) -> str:
    return 'bucket'

  def has_dirs(self) -> bool:
    return False

  def join(self, basepath: str, *paths: str) -> str:
    return '/'.join([basepath.rstrip('/'), *paths])

  def split(self, path: str) -> tuple[str, str]:
    head, _, tail = path.rpartition('/')
    return head, tail

  def mkdirs(self, path: str) -> None:
    pass  # as in a bucket

  def _here(self, path: str) -> str:
    assert path.startswith('bucket://')
    return str(self.root / path.removeprefix('bucket://'))

  def _list(self, dir_or_prefix: str):
    for file in self.root.rglob('*'):
      name = f'bucket://{file.relative_to(self.root)}'
      if file.is_file() and name.startswith(dir_or_prefix):
        yield self.metadata(name)

  def _path_open(self, path, mode, *args, **kwargs):
    here = self._here(path)
    if 'w' in mode:
      os.makedirs(os.path.dirname(here), exist_ok=True)
    return super()._path_open(here, mode, *args, **kwargs)

  def rename(self, sources, targets):
    for target in targets:
      os.makedirs(os.path.dirname(self._here(target)), exist_ok=True)
    super().rename([*map(self._here, sources)], [*map(self._here, targets)])

  def exists(self, path: str) -> bool:
    return os.path.isfile(self._here(path))

  def metadata(self, path: str) -> filesystem.FileMetadata:
    stat = os.stat(self._here(path))
    return filesystem.FileMetadata(path, stat.st_size, stat.st_mtime)

  def checksum(self, path: str) -> str:
    return str(os.path.getsize(self._here(path)))

  def delete(self, paths):
    for path in paths:
      here = self._here(path)
      if path.endswith('/'):
        shutil.rmtree(here)
      else:
        os.remove(here)


def test_inputs_and_spool_on_another_file_system(mixed, tmp_path, monkeypatch):
  """Only the names of the inputs differ."""
  monkeypatch.setattr(_Bucket, 'root', tmp_path, raising=False)
  (tmp_path / 'local').mkdir()
  engine = local_engine.LocalEngine(1)
  preparation.fill(tmp_path / 'local', _settings(mixed), engine)
  names = [spec.replace(f'{tmp_path}/', 'bucket://') for spec in mixed]
  names[1] += '/*'
  options = '--temp_location=bucket://spool/a'
  _fill(tmp_path / 'beam', _settings(names), options)
  assert not list((tmp_path / 'spool').rglob('*.*'))
  assert not list(tmp_path.rglob('prepare-*'))
  found, expected = _files(tmp_path / 'beam'), _files(tmp_path / 'local')
  for name in expected.keys() - {'meta.json', 'documents.jsonl'}:
    assert found[name] == expected[name]
  renamed = expected['documents.jsonl'].replace(
    f'{tmp_path}/'.encode(), b'bucket://'
  )
  assert found['documents.jsonl'] == renamed
  metas = [json.loads(x['meta.json']) for x in (found, expected)]
  assert metas[0]['splits'] == metas[1]['splits']
  for size in ('files', 'bytes'):
    assert metas[0]['input'][size] == metas[1]['input'][size]
  folder = _settings(
    ['bucket://in/texts', 'bucket://in/texts/0.txt'],
    validation_fraction=0.0,
    hold_out=('*/2.txt',),
  )
  _fill(tmp_path / 'again', folder, options)
  sources = [row.source for row in shards.read_documents(tmp_path / 'again')]
  names = ('0.txt', '0again.txt.gz', '1.txt', '2.txt')
  assert sources == [f'bucket://in/texts/{name}' for name in names]
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  with pytest.raises(UserError, match=r'^bucket://in/texts/1.txt: not UTF-8'):
    _fill(tmp_path / 'other', folder, options)
  assert filesystems.FileSystems.get_scheme('bucket://a') == 'bucket'


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    '--direct_running_mode=multi_processing --direct_num_workers=2',
    # The protocol of Flink and Spark, with a server that comes with Beam.
    '--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK',
  ],
  ids=['processes', 'portable'],
)
def test_other_runners(mixed, tmp_path, options):
  """Results and errors survive the passage between processes."""
  flags = [f'--input={spec}' for spec in mixed]
  flags += ['--merges=80', '--validation_fraction=0.3', '--shard_tokens=1000']
  _prepare(*flags, f'--output={tmp_path}/local')
  flags += [_BEAM, f'--beam_options={options}']
  _prepare(*flags, f'--output={tmp_path}/beam')
  assert _files(tmp_path / 'beam') == _files(tmp_path / 'local')
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  done = commands.run('prepare', *flags, f'--output={tmp_path}/out')
  assert done.returncode == 2
  # The runner's processes print tracebacks of their own.
  lines = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
  assert lines == [
    f'error: {tmp_path}/in/texts/1.txt: not UTF-8 at byte 0 (0xff); convert '
    'the file to UTF-8 first'
  ]
