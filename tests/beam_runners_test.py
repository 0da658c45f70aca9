"""Tests `prepare --engine=beam` on other runners and another file system."""

import json
import os
import pathlib
import shutil

import pytest

pytest.importorskip(
  'apache_beam', reason="needs Apache Beam: pip install 'gpt1_jax[beam]'"
)

from apache_beam.io import filesystem, filesystems, localfilesystem

from gpt1_jax.corpus import local_engine, preparation, shards
from gpt1_jax.errors import UserError
from tests.support import commands, engines


@pytest.fixture
def mixed(tmp_path):
  return engines.write_mixed(tmp_path / 'in', engines.pages())


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
  preparation.fill(tmp_path / 'local', engines.settings(mixed), engine)
  names = [spec.replace(f'{tmp_path}/', 'bucket://') for spec in mixed]
  names[1] += '/*'
  options = '--temp_location=bucket://spool/a'
  engines.fill(tmp_path / 'beam', engines.settings(names), options)
  assert not list((tmp_path / 'spool').rglob('*.*'))
  assert not list(tmp_path.rglob('prepare-*'))
  found, expected = (engines.files(tmp_path / x) for x in ('beam', 'local'))
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
  folder = engines.settings(
    ['bucket://in/texts', 'bucket://in/texts/0.txt'],
    validation_fraction=0.0,
    hold_out=('*/2.txt',),
  )
  engines.fill(tmp_path / 'again', folder, options)
  sources = [row.source for row in shards.read_documents(tmp_path / 'again')]
  names = ('0.txt', '0again.txt.gz', '1.txt', '2.txt')
  assert sources == [f'bucket://in/texts/{name}' for name in names]
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  with pytest.raises(UserError, match=r'^bucket://in/texts/1.txt: not UTF-8'):
    engines.fill(tmp_path / 'other', folder, options)
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
  engines.prepare(*flags, f'--output={tmp_path}/local')
  flags += [engines.BEAM, f'--beam_options={options}']
  engines.prepare(*flags, f'--output={tmp_path}/beam')
  assert engines.files(tmp_path / 'beam') == engines.files(tmp_path / 'local')
  (tmp_path / 'in/texts/1.txt').write_bytes(b'\xff')
  done = commands.run('prepare', *flags, f'--output={tmp_path}/out')
  assert done.returncode == 2
  # The runner's processes print tracebacks of their own.
  lines = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
  assert lines == [
    f'error: {tmp_path}/in/texts/1.txt: not UTF-8 at byte 0 (0xff); convert '
    'the file to UTF-8 first'
  ]
