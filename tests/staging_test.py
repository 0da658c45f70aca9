"""Data from a bucket, copied to this machine once, checked and used again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from gpt1_jax import staging
from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError
from tests.support import fake_bucket

pytest.importorskip('gcsfs', reason='needs the gcs extra')

ROOT = pathlib.Path(__file__).resolve().parents[1]
URL = 'gs://bucket/data'
CODE = """
import sys
from absl import flags
from gpt1_jax import staging
flags.FLAGS(['test', '--stage_to=' + sys.argv[2]])
print(staging.shards(sys.argv[1]))
"""


@pytest.fixture
def data(tmp_path):
  """A folder as `prepare` leaves it."""
  folder = tmp_path / 'data'
  folder.mkdir()
  counts = {}
  for split, count in (('train', 250), ('validation', 40)):
    with shards.ShardWriter(folder, split, 100) as writer:
      writer.write(np.arange(count))
    facts = {'tokens': count, 'words': count, 'shards': writer.shards}
    counts[split] = facts
  (folder / shards.DOCUMENTS).write_text('{}\n')
  (folder / 'tokenizer.model').write_bytes(b'a tokenizer')
  shards.write_meta(folder, {'splits': counts})
  return folder


@pytest.fixture
def bucket(data, tmp_path, monkeypatch):
  """A bucket with the data, for this process and for others."""
  with fake_bucket.here(monkeypatch) as bucket:
    stage = types.SimpleNamespace(value=str(tmp_path / 'stage'))
    monkeypatch.setattr(staging, 'STAGE_TO', stage)
    put(bucket, data, 'bucket/data')
    yield bucket


def put(bucket, folder, place):
  for file in folder.rglob('*'):
    if file.is_file():
      bucket.put(f'{place}/{file.relative_to(folder)}', file.read_bytes())


def start(bucket, stage):
  return subprocess.Popen(
    [sys.executable, '-c', CODE, URL, str(stage)],
    cwd=ROOT,
    env=bucket.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_a_local_path_is_left_alone(tmp_path):
  # No flag is looked at, no library is loaded.
  assert staging.shards(str(tmp_path)) == str(tmp_path)
  assert staging.files('tfds:gs://bucket/tfds') == 'tfds:gs://bucket/tfds'
  assert staging.files(None) is None
  code = (
    'import sys; from gpt1_jax import storage, staging;'
    'storage.of("runs"); staging.shards("data");'
    'print({"etils", "fsspec", "gcsfs", "jax"} & set(sys.modules))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == 'set()\n'


def test_the_copy_is_the_same_and_is_used_again(bucket, data, capsys):
  copy = pathlib.Path(staging.shards(URL))
  names = sorted(file.name for file in data.iterdir())
  assert sorted(file.name for file in copy.iterdir()) == names
  for name in names:
    assert (copy / name).read_bytes() == (data / name).read_bytes()
  assert shards.verify(copy) == len(names) - 1
  assert f'{URL}: copying' in capsys.readouterr().err
  reads = bucket.reads('data%2F|data/')
  assert staging.shards(URL) == str(copy)
  assert capsys.readouterr().err == ''
  assert bucket.reads('[.]bin|[.]model') == len(names) - 2
  assert bucket.reads('data%2F|data/') <= reads + 2  # meta.json


def test_other_data_at_the_same_place_is_another_copy(bucket, data, tmp_path):
  first = staging.shards(URL)
  (data / 'tokenizer.model').write_bytes(b'another one')
  meta = json.loads((data / shards.META).read_text())
  (data / shards.META).unlink()
  shards.write_meta(data, {'splits': meta['splits']})
  put(bucket, data, 'bucket/data')
  second = staging.shards(URL)
  assert second != first
  content = (pathlib.Path(second) / 'tokenizer.model').read_bytes()
  assert content == b'another one'


@pytest.mark.parametrize(
  ('break_', 'words'),
  [
    (lambda b: setattr(b, 'broken', 'train-00001'), 'its sha256 differs'),
    (
      lambda b: b.objects.pop('bucket/data/train-00001-of-00003.bin'),
      'missing',
    ),
    (lambda b: b.put('bucket/data/documents.jsonl', b'x'), '1 bytes, 3 expect'),
    (lambda b: b.objects.pop('bucket/data/meta.json'), 'no prepared shards'),
  ],
)
def test_what_is_not_as_it_should_be_is_not_kept(
  bucket, tmp_path, break_, words
):
  break_(bucket)
  with pytest.raises(UserError, match=words):
    staging.shards(URL)
  left = tmp_path / 'stage'
  assert not left.exists() or not [x for x in left.iterdir() if x.is_dir()]


def test_a_copy_that_was_cut_is_made_anew(bucket, data):
  copy = pathlib.Path(staging.shards(URL))
  name = 'train-00000-of-00003.bin'
  os.truncate(copy / name, 10)
  assert staging.shards(URL) == str(copy)
  assert (copy / name).read_bytes() == (data / name).read_bytes()


def test_no_room_is_said_before_anything_is_copied(bucket, monkeypatch):
  usage = types.SimpleNamespace(free=100)
  monkeypatch.setattr(staging.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(UserError, match='do not fit on the disk of '):
    staging.shards(URL)
  assert not bucket.reads('[.]bin')


def test_a_place_that_cannot_be_is_said(bucket, tmp_path):
  staging.STAGE_TO.value = str(tmp_path / 'data' / 'tokenizer.model' / 'x')
  with pytest.raises(UserError, match='name another folder with --stage_to'):
    staging.shards(URL)


def test_processes_of_a_machine_copy_once(bucket, tmp_path):
  bucket.slow = 0.2
  stage = tmp_path / 'stage'
  jobs = [start(bucket, stage) for _ in range(3)]
  said = [job.communicate(timeout=100) for job in jobs]
  assert len({out for out, _ in said}) == 1, said
  assert sum('copying' in err for _, err in said) == 1
  for name in bucket.objects:
    if not name.endswith(shards.META):
      assert bucket.reads(name.rpartition('/')[2]) == 1


def test_a_copy_that_was_killed_is_not_used(bucket, data, tmp_path):
  bucket.slow = 20.0
  stage = tmp_path / 'stage'
  job = start(bucket, stage)
  deadline = time.monotonic() + 100
  while not list(stage.glob('*.incomplete')):
    assert job.poll() is None, job.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.02)
  job.send_signal(signal.SIGKILL)
  job.communicate()
  assert not list(stage.glob(f'shards-{"[0-9a-f]" * 20}'))
  bucket.slow = 0.0
  copy = staging.shards(URL)
  assert shards.verify(copy)
  assert not list(stage.glob('*.incomplete'))


def test_tasks_are_a_folder_or_an_archive(bucket, tmp_path):
  glue = tmp_path / 'glue'
  (glue / 'RTE').mkdir(parents=True)
  (glue / 'RTE' / 'train.tsv').write_text('index\n')
  (glue / 'RTE' / 'meta.json').write_text('{}')
  put(bucket, glue, 'bucket/tasks/glue')
  bucket.put('bucket/tasks/RTE.zip', b'an archive')
  copy = pathlib.Path(staging.files('gs://bucket/tasks/glue/'))
  assert copy.name == 'glue'
  for name in ('train.tsv', 'meta.json'):
    file = copy / 'RTE' / name
    assert file.read_bytes() == (glue / 'RTE' / name).read_bytes()
  assert staging.files('gs://bucket/tasks/glue/') == str(copy)
  archive = pathlib.Path(staging.files('gs://bucket/tasks/RTE.zip'))
  assert archive.name == 'RTE.zip'
  assert archive.read_bytes() == b'an archive'
  with pytest.raises(UserError, match='no such file or folder in the bucket'):
    staging.files('gs://bucket/tasks/no')
  bucket.put('bucket/tasks/RTE.zip', b'an ARCHIVE')
  bucket.broken = 'RTE.zip'
  with pytest.raises(UserError, match='its md5 differs'):
    staging.files('gs://bucket/tasks/RTE.zip')
