"""`prepare --engine=beam`: the bytes of the local engine, and its manners."""

import gzip
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

import pytest

pytest.importorskip(
  'apache_beam', reason="needs Apache Beam: pip install 'gpt1_jax[beam]'"
)

import pyarrow as pa
from apache_beam.io import filesystem, filesystems, localfilesystem
from pyarrow import parquet

from gpt1_jax import prepare
from gpt1_jax.corpus import shards
from gpt1_jax.corpus.beam import pipelines, running
from gpt1_jax.errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_BEAM = '--engine=beam'


def _command(*args: object, **options) -> tuple[int, str, str]:
  done = subprocess.run(
    [sys.executable, '-m', 'gpt1_jax.prepare', *map(str, args)],
    cwd=_ROOT,
    text=True,
    capture_output=True,
    check=False,
    timeout=300,
    **options,
  )
  return done.returncode, done.stdout, done.stderr


def _good(*args: object) -> str:
  code, stdout, stderr = _command(*args)
  assert code == 0, stderr
  assert 'Traceback' not in stderr
  return stdout


def _refused(*args: object, **options) -> str:
  """The one line of the error, which is all that is said."""
  code, _, stderr = _command(*args, **options)
  assert code == 1, stderr
  (line,) = stderr.splitlines()
  assert line.startswith('error: ')
  return line


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


def _settings(inputs: list[str], **changes: object) -> dict[str, object]:
  return {
    'inputs': inputs,
    'text_field': 'text',
    'merges': 80,
    'tokenizer': None,
    'tokenizer_sample_mb': 1000,
    'validation_fraction': 0.3,
    'hold_out': [],
    'shard_tokens': 1000,
    **changes,
  }


def _both(
  path: pathlib.Path, settings: dict[str, object]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
  """What the local engine and Beam write, in this process."""
  for name in ('local', 'beam'):
    (path / name).mkdir()
  prepare.prepare(path / 'local', settings, 1)
  prepare.prepare_on_beam(path / 'beam', settings, '')
  return _files(path / 'local'), _files(path / 'beam')


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
  """As a user runs it, on a sample that is less than the text."""
  files = sorted((shared_data / 'books').glob('*.txt'))[3:52:8]
  books = [file.read_text('utf-8-sig') for file in files]
  (tmp_path / 'in').mkdir()
  inputs = _write_mixed(tmp_path / 'in', books)
  flags = [f'--input={spec}' for spec in inputs]
  flags += ['--merges=300', '--validation_fraction=0.2']
  flags += ['--shard_tokens=70001', '--tokenizer_sample_mb=1']
  local, beam = tmp_path / 'local', tmp_path / 'beam'
  said = _good(*flags, f'--output={local}').splitlines()[1:3]
  assert _good(*flags, f'--output={beam}', _BEAM).splitlines()[1:3] == said
  assert _files(beam) == _files(local)
  meta = shards.read_meta(beam)
  assert len(meta['splits']['train']['shards']) > 10
  assert meta['splits']['train']['words'] * 5 > 2_000_000  # a sample it was
  splits = [row['split'] for row in shards.read_documents(beam)]
  assert splits.count('duplicate') > 47
  assert 'as they were written' in _good(f'--output={beam}', '--verify', _BEAM)


@pytest.mark.parametrize(('block', 'shard_tokens'), [(1, 997), (3, 50)])
def test_blocks_and_shards_of_any_size(
  mixed, tmp_path, monkeypatch, block, shard_tokens
):
  monkeypatch.setattr(pipelines, '_BLOCK', block)
  settings = _settings(mixed, shard_tokens=shard_tokens)
  local, beam = _both(tmp_path, settings)
  assert beam == local
  assert len(local) > 100


def test_documents_are_held_out_by_name(mixed, tmp_path):
  changes = {'validation_fraction': 0.0, 'hold_out': ['*:2']}
  settings = _settings(mixed, **changes)
  local, beam = _both(tmp_path, settings)
  assert beam == local
  rows = list(shards.read_documents(tmp_path / 'beam'))
  held_out = [r['source'] for r in rows if r['split'] == 'validation']
  assert held_out
  assert held_out == [
    r['source']
    for r in rows
    if r['source'].endswith(':2') and r['split'] != 'duplicate'
  ]
  with pytest.raises(UserError, match=r'--hold_out=\*:x: the source of no'):
    prepare.prepare_on_beam(tmp_path, {**settings, 'hold_out': ['*:x']}, '')


def test_a_given_tokenizer(mixed, tmp_path):
  local, _ = _both(tmp_path, _settings(mixed))
  (tmp_path / 'next').mkdir()
  given = _settings(mixed[:1], merges=None, tokenizer=str(tmp_path / 'local'))
  local, beam = _both(tmp_path / 'next', given)
  assert beam == local


def test_the_original_vocabulary(shared_data, pages, tmp_path):
  (tmp_path / 'p').mkdir()
  for i, page in enumerate(pages):
    (tmp_path / 'p' / f'{i}.txt').write_text(page[:3000])
  vocabulary = f'openai:{shared_data}/vocab'
  settings = _settings([f'{tmp_path}/p'], merges=None, tokenizer=vocabulary)
  local, beam = _both(tmp_path, settings)
  assert beam == local
  assert 'vocab_40000.bpe' in beam


def test_runs_have_up_to_a_block_of_texts(monkeypatch):
  monkeypatch.setattr(pipelines, '_BLOCK', 2)
  kinds = ['text'] * 3 + ['jsonl', 'parquet'] + ['text'] * 2
  runs = [run[:2] for run in pipelines._in_runs([(k, 'x') for k in kinds])]
  assert runs == [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (4, 0), (4, 1)]


def test_either_engine_finds_the_output_of_the_other(pages, tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  for i, page in enumerate(pages):
    (folder / f'{i}.txt').write_text(page)
  flags = (f'--input={folder}', '--merges=60', '--validation_fraction=0.3')
  local, beam = tmp_path / 'local', tmp_path / 'beam'
  _good(*flags, f'--output={local}')
  _good(*flags, f'--output={beam}', _BEAM)
  before = {file: file.stat().st_mtime_ns for file in beam.iterdir()}
  assert 'finished before' in _good(*flags, f'--output={local}', _BEAM)
  assert 'finished before' in _good(*flags, f'--output={beam}')
  assert 'finished before' in _good(*flags, f'--output={beam}', _BEAM)
  line = _refused(*flags[:1], '--merges=61', f'--output={beam}', _BEAM)
  assert 'another merges' in line
  (folder / '0.txt').write_text('something else')
  line = _refused(*flags, f'--output={beam}', _BEAM)
  assert 'its input has changed' in line
  assert before == {file: file.stat().st_mtime_ns for file in beam.iterdir()}
  assert sorted(os.listdir(tmp_path)) == ['beam', 'in', 'local']


# What a file holds, and what is said of it.
_BAD = [
  ('bad.txt', b'good until here \xff', 'bad.txt: not UTF-8 at byte 16 (0xff)'),
  ('bad.jsonl', b'{"text": "a"}\n{"t": 1}', "bad.jsonl:2: no text in field 't"),
  ('bad.txt.gz', b'\x1f\x8bnot', 'bad.txt.gz: damaged gzip file'),
  ('bad.parquet', b'PAR1', 'bad.parquet: not a readable Parquet file'),
]


@pytest.mark.parametrize(('name', 'data', 'words'), _BAD)
def test_a_bad_document_is_one_line_and_leaves_nothing(
  pages, tmp_path, name, data, words
):
  (tmp_path / 'good.txt').write_text(pages[0])
  (tmp_path / name).write_bytes(data)
  out = tmp_path / 'o' / 'out'
  line = _refused(f'--input={tmp_path}', f'--output={out}', _BEAM)
  assert 'lies in' in line
  line = _refused(f'--input={tmp_path}/*.*', f'--output={out}', _BEAM)
  assert f'error: {tmp_path}/{words}' in line
  assert 'while running' not in line
  assert not list(out.parent.iterdir())


def test_an_empty_split_or_too_many_merges(mixed, pages, tmp_path):
  with pytest.raises(UserError, match='the validation split is empty: all '):
    prepare.prepare_on_beam(
      tmp_path, _settings(mixed, validation_fraction=1e-9), ''
    )
  with pytest.raises(UserError, match='this text allows only'):
    prepare.prepare_on_beam(tmp_path, _settings(mixed, merges=50_000), '')
  (tmp_path / 'blank.jsonl').write_text('\n\n')
  with pytest.raises(UserError, match='the input holds no document'):
    prepare.prepare_on_beam(
      tmp_path, _settings([str(tmp_path / 'blank.jsonl')]), ''
    )
  assert not list(tmp_path.glob('prepare-*'))


@pytest.mark.filterwarnings('ignore:os.fork:RuntimeWarning')
def test_a_full_disk_is_one_line_and_leaves_nothing(mixed, tmp_path):
  def limit():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

  flags = [f'--input={spec}' for spec in mixed]
  line = _refused(*flags, f'--output={tmp_path}/out', _BEAM, preexec_fn=limit)
  assert 'nothing was kept, make room' in line
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
    prepare.prepare_on_beam(tmp_path, _settings(mixed), options)
  assert words in str(refused.value)
  assert '\n' not in str(refused.value)


def test_wrong_places(tmp_path):
  for spec, words in (
    ('nosuch://b/x', 'nosuch://b/x: cannot be reached'),
    (f'{tmp_path}/none', 'no such file or folder'),
  ):
    with pytest.raises(UserError, match=words):
      prepare.prepare_on_beam(tmp_path, _settings([spec]), '')
  odd = tmp_path / 'a[b]'
  odd.mkdir()
  with pytest.raises(UserError, match='for a pattern'):
    prepare.prepare_on_beam(odd, _settings(['builtin:python-reference']), '')


def test_what_remote_runners_say_is_found():
  text = (
    'Dataflow pipeline failed. State: FAILED, Error:\n'
    'Traceback (most recent call last):\n  File "apache_beam/common.py", x\n'
    'gpt1_jax.errors.UserError: gs://b/a.txt: empty; remove it [while running '
    "'clean-ptransform-41']\n\nNote: imports"
  )
  cause = running._cause(text)
  assert isinstance(cause, UserError)
  assert str(cause) == 'gs://b/a.txt: empty; remove it'
  cause = running._cause(
    'RuntimeError: OSError: [Errno 28] No space left on device [while running '
    "'write shard']"
  )
  assert (cause.errno, cause.strerror) == (28, 'No space left on device')
  cause = running._cause("X\nFileNotFoundError: [Errno 2] No such file: '/a b'")
  assert (cause.errno, cause.filename) == (2, '/a b')
  assert running._cause('KeyError: 3') is None


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

  def delete(self, paths):
    for path in paths:
      here = self._here(path)
      if path.endswith('/'):
        shutil.rmtree(here)
      else:
        os.remove(here)


def test_inputs_and_spool_on_another_file_system(mixed, tmp_path, monkeypatch):
  """The bytes do not change but for the names of the inputs."""
  monkeypatch.setattr(_Bucket, 'root', tmp_path, raising=False)
  local = tmp_path / 'local'
  local.mkdir()
  prepare.prepare(local, _settings(mixed), 1)
  names = [spec.replace(f'{tmp_path}/', 'bucket://') for spec in mixed]
  names[1] += '/*'
  beam = tmp_path / 'beam'
  beam.mkdir()
  spool = '--temp_location=bucket://spool/a'
  prepare.prepare_on_beam(beam, _settings(names), spool)
  assert not list((tmp_path / 'spool').rglob('*.*'))
  assert not list(tmp_path.rglob('prepare-*'))
  mine, there = _files(beam), _files(local)
  for name in there.keys() - {'meta.json', 'documents.jsonl'}:
    assert mine[name] == there[name]
  renamed = there['documents.jsonl'].replace(
    f'{tmp_path}/'.encode(), b'bucket://'
  )
  assert mine['documents.jsonl'] == renamed
  first, second = (json.loads(f['meta.json']) for f in (mine, there))
  assert first['input'] == second['input']
  assert first['splits'] == second['splits']
  folder = _settings(
    ['bucket://in/texts', 'bucket://in/texts/0.txt'],
    validation_fraction=0.0,
    hold_out=['*/2.txt'],
  )
  shutil.rmtree(beam)
  beam.mkdir()
  prepare.prepare_on_beam(beam, folder, spool)
  sources = [row['source'] for row in shards.read_documents(beam)]
  names = ('0.txt', '0again.txt.gz', '1.txt', '2.txt')
  assert sources == [f'bucket://in/texts/{name}' for name in names]
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  with pytest.raises(UserError, match=r'^bucket://in/texts/1.txt: not UTF-8'):
    prepare.prepare_on_beam(tmp_path / 'other', folder, spool)
  assert filesystems.FileSystems.get_scheme('bucket://a') == 'bucket'


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    '--direct_running_mode=multi_processing --direct_num_workers=2',
    # What Flink and Spark are spoken to by, with a server that Beam brings.
    '--runner=PortableRunner --job_endpoint=embed --environment_type=LOOPBACK',
  ],
  ids=['processes', 'portable'],
)
def test_other_runners(mixed, tmp_path, options):
  """What passes between processes comes out the same, and so do errors."""
  flags = [f'--input={spec}' for spec in mixed]
  flags += ['--merges=80', '--validation_fraction=0.3', '--shard_tokens=1000']
  local, beam = tmp_path / 'local', tmp_path / 'beam'
  _good(*flags, f'--output={local}')
  flags += [_BEAM, f'--beam_options={options}']
  _good(*flags, f'--output={beam}')
  assert _files(beam) == _files(local)
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  code, _, stderr = _command(*flags, f'--output={tmp_path}/out')
  assert code == 1
  lines = [x for x in stderr.splitlines() if x.startswith('error: ')]
  assert lines == [
    f'error: {tmp_path}/in/texts/1.txt: not UTF-8 at byte 0 (0xff); convert '
    'the file to UTF-8 first'
  ]
