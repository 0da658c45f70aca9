"""Data in a bucket is copied to this machine once, verified and reused."""

import json
import os
import pathlib
import signal
import types

import numpy as np
import pytest

from gpt1_jax import staging
from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError
from tests.support import books, commands, fake_bucket

pytest.importorskip('gcsfs', reason='needs the gcs extra')

URL = 'gs://bucket/data'
CODE = """
import sys
from gpt1_jax.corpus import shards
print(shards.fetch(sys.argv[1], sys.argv[2]))
"""


@pytest.fixture
def data(tmp_path):
  """Shards as `prepare` writes them."""
  folder = tmp_path / 'data'
  folder.mkdir()
  splits = {}
  for split, count in (('train', 250), ('validation', 40)):
    with shards.ShardWriter(folder, split, 100) as writer:
      writer.write(np.arange(count))
    splits[split] = {
      'tokens': count,
      'words': count,
      'documents': 1,
      'shards': writer.shards,
    }
  (folder / shards.DOCUMENTS).write_text('{}\n')
  (folder / 'tokenizer.model').write_bytes(b'a tokenizer')
  shards.write_meta(folder, {'splits': splits, **books.PROVENANCE})
  return folder


@pytest.fixture
def bucket(data, monkeypatch):
  """A bucket with the shards, for this process and for others."""
  with fake_bucket.here(monkeypatch) as bucket:
    bucket.put_folder('bucket/data', data)
    yield bucket


@pytest.fixture
def stage(tmp_path):
  return tmp_path / 'stage'


def fetch(stage, url=URL):
  return pathlib.Path(shards.fetch(url, str(stage)))


def start(bucket, stage):
  return commands.start('-c', CODE, URL, stage, **bucket.environment())


def test_a_local_path_is_returned_unchanged(tmp_path):
  assert shards.fetch(str(tmp_path)) == str(tmp_path)
  for name in ('data', 'tfds:gs://bucket/tfds'):
    assert staging.fetch(name) == name


def test_a_local_path_loads_no_client():
  code = (
    'import sys; from gpt1_jax import storage; from gpt1_jax.corpus import '
    'shards; storage.path("runs"); shards.fetch("data");'
    'print({"fsspec", "gcsfs", "jax", "tensorflow"} & set(sys.modules))'
  )
  assert commands.succeed('-c', code) == 'set()\n'


def test_a_copy_is_identical_and_used_again(bucket, data, stage, capsys):
  copy = fetch(stage)
  names = sorted(file.name for file in data.iterdir())
  assert sorted(file.name for file in copy.iterdir()) == names
  for name in names:
    assert (copy / name).read_bytes() == (data / name).read_bytes()
  assert f'{URL}: copying' in capsys.readouterr().err
  assert bucket.reads('[.]bin|[.]model') == len(names) - 2
  reads = bucket.reads('data%2F|data/')
  assert fetch(stage) == copy
  assert capsys.readouterr().err == ''
  assert bucket.reads('data%2F|data/') <= reads + 2  # meta.json


def test_changed_data_is_copied_again(bucket, data, stage):
  first = fetch(stage)
  (data / 'tokenizer.model').write_bytes(b'another one')
  meta = shards.read_meta(data)
  (data / shards.META).unlink()
  shards.write_meta(data, {'splits': meta['splits'], **books.PROVENANCE})
  bucket.put_folder('bucket/data', data)
  second = fetch(stage)
  assert second != first
  assert (second / 'tokenizer.model').read_bytes() == b'another one'


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda b: setattr(b, 'broken', 'train-00001'), 'its size or MD5 differs'),
    (
      lambda b: b.objects.pop('bucket/data/train-00001-of-00003.bin'),
      f'{URL}/train-00001-of-00003.bin: missing',
    ),
    (
      lambda b: b.put('bucket/data/documents.jsonl', b'x'),
      f'{URL}/documents.jsonl: 1 bytes, 3 expected',
    ),
    (
      lambda b: b.put('bucket/data/documents.jsonl', b'x}\n'),
      f'{URL}/documents.jsonl: its sha256 differs',
    ),
    (lambda b: b.objects.pop('bucket/data/meta.json'), 'no prepared shards'),
  ],
)
def test_damaged_shards_are_not_kept(bucket, stage, damage, message):
  damage(bucket)
  with pytest.raises(UserError, match=message):
    fetch(stage)
  assert not [path for path in stage.glob('*') if path.is_dir()]


def test_a_truncated_copy_is_made_again(bucket, data, stage):
  copy = fetch(stage)
  name = 'train-00000-of-00003.bin'
  os.truncate(copy / name, 10)
  assert fetch(stage) == copy
  assert (copy / name).read_bytes() == (data / name).read_bytes()


def test_room_is_checked_before_copying(bucket, stage, monkeypatch):
  usage = types.SimpleNamespace(free=100)
  monkeypatch.setattr(staging.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(UserError, match='do not fit on the disk of '):
    fetch(stage)
  assert not bucket.reads('[.]bin')


def test_an_impossible_folder_of_copies_is_refused(bucket, data):
  with pytest.raises(UserError, match='choose another folder with --stage_to'):
    fetch(data / 'tokenizer.model' / 'x')


def test_the_processes_of_a_machine_copy_once(bucket, stage, ended):
  bucket.slow = 0.2
  jobs = [ended(start(bucket, stage)) for _ in range(3)]
  outputs = [job.communicate(timeout=100) for job in jobs]
  assert len({out for out, _ in outputs}) == 1, outputs
  assert sum('copying' in err for _, err in outputs) == 1
  for name in bucket.objects:
    if not name.endswith(shards.META):
      assert bucket.reads(name.rpartition('/')[2]) == 1


def test_the_copy_of_a_killed_process_is_not_used(bucket, stage, ended):
  bucket.slow = 20.0
  job = ended(start(bucket, stage))
  commands.await_until(job, lambda: list(stage.glob('*.incomplete')))
  job.send_signal(signal.SIGKILL)
  job.communicate()
  assert not list(stage.glob(f'data-{"[0-9a-f]" * 20}'))
  bucket.slow = 0.0
  assert shards.verify(fetch(stage))
  assert not list(stage.glob('*.incomplete'))


def test_tasks_are_a_folder_or_an_archive(bucket, tmp_path, stage):
  glue = tmp_path / 'glue'
  (glue / 'RTE').mkdir(parents=True)
  (glue / 'RTE' / 'train.tsv').write_text('index\n')
  (glue / 'RTE' / 'meta.json').write_text(json.dumps({}))
  bucket.put_folder('bucket/tasks/glue', glue)
  bucket.put('bucket/tasks/RTE.zip', b'an archive')

  def fetch(name):
    return pathlib.Path(staging.fetch(f'gs://bucket/tasks/{name}', str(stage)))

  copy = fetch('glue/')
  assert copy.name == 'glue'
  for name in ('train.tsv', 'meta.json'):
    file = copy / 'RTE' / name
    assert file.read_bytes() == (glue / 'RTE' / name).read_bytes()
  assert fetch('glue/') == copy
  archive = fetch('RTE.zip')
  assert archive.name == 'RTE.zip'
  assert archive.read_bytes() == b'an archive'
  with pytest.raises(UserError, match='no such file or folder in the bucket'):
    fetch('no')
  bucket.put('bucket/tasks/RTE.zip', b'an ARCHIVE')
  bucket.broken = 'RTE.zip'
  with pytest.raises(UserError, match='its size or MD5 differs'):
    fetch('RTE.zip')
