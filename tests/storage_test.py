"""Local folders and folders in a bucket behave alike."""

import hashlib
import json
import math
import os
import pathlib
import pwd

import pytest

from gpt1_jax import staging, storage
from gpt1_jax.corpus import verification
from gpt1_jax.errors import UserError
from gpt1_jax.inference import prompting
from gpt1_jax.reporting import runs
from gpt1_jax.tasks.readers import sources
from gpt1_jax.train import telemetry
from tests.support import fake_bucket


@pytest.fixture
def bucket(monkeypatch):
  pytest.importorskip('gcsfs', reason='needs the gcs extra')
  with fake_bucket.here(monkeypatch) as bucket:
    yield bucket


@pytest.fixture(params=['local', 'bucket'])
def top(request, tmp_path):
  """A folder that does not exist yet, of each kind."""
  if request.param == 'local':
    return tmp_path / 'top'
  request.getfixturevalue('bucket')
  return storage.path('gs://bucket/top')


def test_local_paths_are_pathlib_paths(tmp_path):
  assert storage.path('runs/a') == pathlib.Path('runs/a')
  assert isinstance(storage.path(tmp_path), pathlib.Path)
  assert storage.resolved('x/../y') == pathlib.Path('y').resolve()
  assert storage.resolved('y') == pathlib.Path('y').absolute()
  assert not storage.is_remote(None)
  assert not storage.is_remote('gs/bucket')
  for name in ('s3://bucket/x', 'file:///x', 'hdfs://x'):
    with pytest.raises(UserError, match='give a local path'):
      storage.path(name)


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setattr(storage.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(UserError, match=r'gpt1_jax\[gcs\]'):
    storage.path('gs://bucket/x')


def test_files_are_replaced_whole(top):
  assert not top.exists()
  for content in ('one', 'zwei — drei', ''):
    storage.write_text(top / 'a' / 'b.txt', content)
    assert (top / 'a' / 'b.txt').read_text(encoding='utf-8') == content
  assert (top / 'a').is_dir()
  assert [path.name for path in (top / 'a').iterdir()] == ['b.txt']
  storage.remove(top / 'a')
  assert not (top / 'a' / 'b.txt').exists()
  storage.remove(top / 'a')


def test_no_permission_is_an_error_and_not_a_missing_file(bucket):
  bucket.put('bucket/top/a/x.txt', b'text')
  bucket.put('bucket/top/b/y.txt', b'text')
  top = storage.path('gs://bucket/top')
  calls = (
    (top / 'a').exists,
    (top / 'a').is_dir,
    (top / 'a' / 'x.txt').is_file,
    lambda: list((top / 'a').iterdir()),
  )
  for call in calls:
    assert call()
  bucket.forbidden = 'top%2Fa|top/a'
  for call in (*calls, lambda: list(storage.walk(top))):
    with pytest.raises(OSError, match=r'(?s)^Forbidden: .*no permission'):
      call()
  assert [file.name for file in (top / 'b').iterdir()] == ['y.txt']
  assert not (top / 'c').is_dir()


def test_an_unreachable_bucket_is_an_error(bucket, monkeypatch):
  bucket.put('bucket/top/x.txt', b'text')
  top = storage.path('gs://bucket/top')
  assert top.is_dir()
  retry = pytest.importorskip('gcsfs.retry')
  monkeypatch.setattr(retry, 'min', lambda *_: 0, raising=False)  # the waits
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', 'http://127.0.0.1:9')
  for call in (top.is_dir, top.exists, lambda: list(storage.walk(top))):
    with pytest.raises(OSError, match='Cannot connect') as found:
      call()
    assert storage.bucket_error(found.value).startswith('cannot access the buc')


def test_walk_goes_from_the_top_and_skips_removed_folders(top):
  for name in ('x.txt', 'a/1.txt', 'a/b/2.txt', 'c/d/3.txt', 'c/4.txt'):
    storage.write_text(top / name, name)
  found = []
  for folder, below, files in storage.walk(top):
    below.sort()
    name = os.path.relpath(os.fspath(folder), os.fspath(top))
    found.append((name, list(below), sorted(files)))
    if name == 'c':
      below.clear()
  assert found == [
    ('.', ['a', 'c'], ['x.txt']),
    ('a', ['b'], ['1.txt']),
    ('a/b', [], ['2.txt']),
    ('c', ['d'], ['4.txt']),
  ]


def test_files_of_another_host_are_seen(bucket):
  path = storage.path('gs://bucket/run/config.json')
  assert not path.exists()
  assert not path.parent.is_dir()
  assert list(storage.path('gs://bucket').glob('*/config.json')) == []
  bucket.put('bucket/run/config.json', b'{}')
  assert path.exists()
  assert path.parent.is_dir()
  assert list(storage.path('gs://bucket').glob('*/config.json')) == [path]
  bucket.put('bucket/run/config.json', b'{"a": 1}')
  assert json.loads(path.read_text()) == {'a': 1}


def test_rows_are_in_the_bucket_once_uploaded(bucket, tmp_path):
  def rows():
    text = bucket.objects['bucket/run/metrics.jsonl'].decode()
    return [json.loads(line)['step'] for line in text.splitlines()]

  def new(start):
    span = telemetry.Span(start, 9)
    return telemetry.Telemetry('gs://bucket/run', 'test', span, 1.0)

  with new(0) as log:
    for step in (1, 2):
      log.write({'step': step, 'loss': 1.0})
    log.upload()
    assert rows() == [1, 2]
    log.write({'step': 3, 'loss': 1.0})
    assert rows() == [1, 2]
  assert rows() == [1, 2, 3]
  with new(2) as log:  # from checkpoint 2
    log.write({'step': 3, 'loss': 2.0})
  assert rows() == [1, 2, 3]
  events = [name for name in bucket.objects if 'events.out' in name]
  assert events
  assert all(name.startswith('bucket/run/tensorboard/') for name in events)


def test_runs_are_found_in_the_bucket(bucket, tmp_path):
  facts = {
    'command': 'pretrain',
    'config': {
      'data': {'path': 'books', 'batch_size': 8},
      'optim': {'peak_lr': 1e-3, 'variant': 'paper'},
      'train': {'seed': 0},
    },
    'commit': None,
    'model': {},
    'parameters': 1,
    'num_steps': 1,
  }
  content = json.dumps(facts).encode()
  for name in ('a', 'below/layers-10', 'below/layers-2'):
    bucket.put(f'bucket/runs/{name}/config.json', content)
    bucket.put(f'bucket/runs/{name}/checkpoints/1/state/x', b'')
  found = runs.find(['gs://bucket/runs'])
  names = ['a', 'below/layers-2', 'below/layers-10']
  assert [run.name for run in found] == names
  assert found[0].path == storage.resolved('gs://bucket/runs/a')
  (tmp_path / 'config.json').write_bytes(content)
  both = runs.find([str(tmp_path), 'gs://bucket/runs/a'])
  assert [run.name for run in both] == [str(tmp_path), 'gs://bucket/runs/a']
  with pytest.raises(UserError, match='gs://bucket/no: no such folder'):
    runs.find(['gs://bucket/no'])


def test_errors_of_a_library_become_one_line():
  error = type('HttpError', (Exception,), {'__module__': 'gcsfs.retry'})
  assert storage.bucket_error(error('no\nsuch bucket')) == (
    'cannot access the bucket (no such bucket)'
  )
  assert storage.bucket_error(ValueError('x')) is None


def test_json_has_null_for_nan_and_infinity(tmp_path):
  value = {'a': float('nan'), 'b': [1.5, float('-inf')], 'c': 'NaN'}
  storage.write_json(tmp_path / 'x.json', value)
  found = json.loads((tmp_path / 'x.json').read_text())
  assert found == {'a': None, 'b': [1.5, None], 'c': 'NaN'}


def test_json_for_people_is_utf8():
  text = storage.to_json(['é', '\ud800', math.nan], in_ascii=False)
  assert text == '["é", "\\ud800", null]'
  assert text.encode()


@pytest.mark.parametrize('levels', [100, 200, 900, 100_000])
def test_json_that_is_nested_too_deeply_is_named(tmp_path, levels):
  file = tmp_path / 'a.json'
  file.write_text('[' * levels + ']' * levels)
  if levels > 100:
    with pytest.raises(UserError, match=f'{file}: damaged'):
      storage.read_json(file)
  else:
    storage.write_json(file, storage.read_json(file))


def test_what_is_not_a_file_is_not_read(tmp_path):
  os.mkfifo(tmp_path / 'pipe.json')
  for name in (tmp_path / 'pipe.json', tmp_path, '/dev/null'):
    with pytest.raises(UserError, match=f'{name}: not a file'):
      storage.read_json(name)


def test_links_that_form_a_loop_are_not_written_to(tmp_path):
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  with pytest.raises(UserError, match='its symbolic links form a loop'):
    storage.write_text(tmp_path / 'loop', '')
  assert (tmp_path / 'loop').is_symlink()


def test_devices_pipes_and_links_are_written_to_and_not_replaced(tmp_path):
  target, link, pipe = (tmp_path / name for name in ('file', 'link', 'pipe'))
  target.write_text('old')
  link.symlink_to(target)
  storage.write_text(link, 'new')
  assert link.is_symlink()
  assert target.read_text() == 'new'
  os.mkfifo(pipe)
  reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
  storage.write_text(pipe, 'text')
  assert os.read(reader, 100) == b'text'
  os.close(reader)
  assert pipe.is_fifo()
  with pytest.raises(IsADirectoryError) as raised:
    storage.write_text(tmp_path, 'text')
  assert raised.value.filename == str(tmp_path)
  assert sorted(os.listdir(tmp_path)) == ['file', 'link', 'pipe']


def test_a_leading_tilde_is_the_home_folder(tmp_path, monkeypatch):
  """A shell replaces it in `--x ~/y`, but not in `--x=~/y`."""
  monkeypatch.setenv('HOME', str(tmp_path))
  run = tmp_path / 'run'
  assert storage.path('~/run') == run
  assert storage.writable('~/run') == run
  assert staging.fetch('~/run') == str(run)
  assert sources.folder_of('~/run') == run
  assert sources.tfds_folder('tfds:~/run') == str(run)
  for name in ('a~', './~', 'b/~/c'):
    assert storage.path(name) == pathlib.Path(name)


def test_an_unknown_home_folder_is_named(tmp_path, monkeypatch):
  """A container may run as a user that its /etc/passwd lacks."""
  with pytest.raises(UserError, match=r'~nobody0/x: the home folder is unk'):
    sources.folder_of('~nobody0/x')
  monkeypatch.delenv('HOME')
  monkeypatch.setattr(pwd, 'getpwuid', lambda uid: {}[uid])
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='~/run: the home folder is unknown'):
    storage.path('~/run')
  shard = tmp_path / 'shard'
  shard.write_bytes(bytes(4))
  sha256 = hashlib.sha256(bytes(4)).hexdigest()
  verification.Shard(shard, sha256, 1)
  with prompting._history():
    pass
  assert list(tmp_path.iterdir()) == [shard]
