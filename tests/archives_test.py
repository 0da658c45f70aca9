"""Files are found however they were unpacked, or are still packed."""

import io
import tarfile
import zipfile

import pytest

from gpt1_jax import errors
from gpt1_jax.tasks.readers import archives, rows

NAMES, FOLDERS = ('dev.tsv',), ('SST-2',)
TABLE = 'sentence\tlabel\nfine\t1\n'


def pack(path, member, text=TABLE):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(member, text)


def pack_tar(path, members):
  with tarfile.open(path, 'w:gz' if path.name.endswith('gz') else 'w') as tar:
    for member, text in members.items():
      info = tarfile.TarInfo(member)
      info.size = len(text.encode())
      tar.addfile(info, io.BytesIO(text.encode()))


@pytest.mark.parametrize(
  'place', ['dev.tsv', 'SST-2/dev.tsv', 'sst2/dev.tsv', 'glue/SST-2/dev.tsv']
)
def test_found_in_a_folder(tmp_path, place):
  path = tmp_path / place
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(TABLE)
  source = archives.find(tmp_path, NAMES, FOLDERS)
  assert str(source) == str(path)
  assert list(rows.read(source, ['sentence'])) == [
    rows.Row(0, f'{path}:2', {'sentence': 'fine', 'label': '1'})
  ]


@pytest.mark.parametrize('member', ['dev.tsv', 'SST-2/dev.tsv', 'x/y/dev.tsv'])
@pytest.mark.parametrize('inside', [False, True])
def test_found_in_a_zip(tmp_path, member, inside):
  path = tmp_path / 'SST-2.zip'
  pack(path, member)
  source = archives.find(tmp_path if inside else path, NAMES, FOLDERS)
  assert str(source) == f'{path}/{member}'
  assert len(list(rows.read(source, ['sentence']))) == 1


def test_a_zip_of_many_tasks_gives_the_right_one(tmp_path):
  path = tmp_path / 'all.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    for folder in ('CoLA', 'SST-2', 'RTE', '__MACOSX/SST-2'):
      archive.writestr(f'{folder}/dev.tsv', folder)
  assert archives.find(path, NAMES, FOLDERS).member == 'SST-2/dev.tsv'
  assert archives.find(path, NAMES, ('QQP',)) is None


def test_nearer_folders_win(tmp_path):
  for place in ('a/SST-2', 'a/b/SST-2', 'SST-2', '.'):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'dev.tsv').write_text(TABLE)
  for place in ('.', 'SST-2', 'a/SST-2'):
    found = archives.find(tmp_path, NAMES, FOLDERS)
    assert found.path == tmp_path / place / 'dev.tsv'
    found.path.unlink()
  assert archives.find(tmp_path, NAMES, FOLDERS) is None  # three levels down


def test_not_found_is_none_and_says_where_it_looked(tmp_path):
  assert archives.find(tmp_path, NAMES, FOLDERS) is None
  said = archives.looked_for(tmp_path, NAMES, FOLDERS)
  for word in (str(tmp_path), 'dev.tsv', 'SST-2/', '*/SST-2/', 'zips and tars'):
    assert word in said


def test_first_name_is_preferred(tmp_path):
  for name in ('a.tsv', 'b.tsv'):
    (tmp_path / name).write_text(TABLE)
  assert archives.find(tmp_path, ('b.tsv', 'a.tsv'), ()).path.name == 'b.tsv'


def test_no_such_path_and_no_zip(tmp_path):
  with pytest.raises(errors.UserError, match='no such file'):
    archives.find(tmp_path / 'absent', NAMES, FOLDERS)
  (tmp_path / 'file').write_text('x')
  with pytest.raises(errors.UserError, match='neither a folder nor a zip or'):
    archives.find(tmp_path / 'file', NAMES, FOLDERS)


def test_damaged_zip_is_named(tmp_path):
  path = tmp_path / 'SST-2.zip'
  pack(path, 'dev.tsv', TABLE * 500)
  data = bytearray(path.read_bytes())
  data[45:55] = bytes(10)
  path.write_bytes(data)
  source = archives.find(path, NAMES, FOLDERS)
  with pytest.raises(errors.UserError, match=r'dev\.tsv: damaged archive'):
    list(rows.read(source, ['sentence']))


@pytest.mark.parametrize('name', ['SST-2.tar.gz', 'sst2.tgz', 'SST-2.tar'])
@pytest.mark.parametrize('inside', [False, True])
def test_found_in_a_tar(tmp_path, name, inside):
  path = tmp_path / name
  pack_tar(path, {'x/SST-2/train.tsv': 'a\tb\n', 'x/SST-2/dev.tsv': TABLE})
  source = archives.find(tmp_path if inside else path, NAMES, FOLDERS)
  assert str(source) == f'{path}/x/SST-2/dev.tsv'
  assert source.folder == 'sst2'
  assert len(list(rows.read(source, ['sentence']))) == 1


def test_archives_of_another_name_serve_if_they_hold_the_folder(tmp_path):
  pack(tmp_path / 'a.zip', 'QQP/dev.tsv')
  pack(tmp_path / 'b.zip', 'dev.tsv')
  assert archives.find(tmp_path, NAMES, FOLDERS) is None
  pack_tar(tmp_path / 'c.tar.gz', {'glue/SST-2/dev.tsv': TABLE})
  found = archives.find(tmp_path, NAMES, FOLDERS)
  assert found.path == tmp_path / 'c.tar.gz'
  pack(tmp_path / 'SST-2.zip', 'x/dev.tsv')  # so called: before the others
  found = archives.find(tmp_path, NAMES, FOLDERS)
  assert found.path == tmp_path / 'SST-2.zip'
  (tmp_path / 'SST-2').mkdir()
  pack(tmp_path / 'SST-2' / 'd.zip', 'SST-2/dev.tsv')
  (tmp_path / 'SST-2.zip').unlink()
  (tmp_path / 'c.tar.gz').unlink()
  found = archives.find(tmp_path, NAMES, FOLDERS)
  assert found.path == tmp_path / 'SST-2' / 'd.zip'


TREE = {f'RACE/dev/high/{n}.txt': str(n) for n in (10, 9, 100)}
TREE |= {'RACE/dev/middle/1.txt': 'm', 'RACE/dev/high/.DS_Store': 'x'}
TREE |= {'RACE/dev/high/._9.txt': 'x', '__MACOSX/RACE/dev/high/9.txt': 'x'}


@pytest.mark.parametrize('packed', ['', 'zip', 'tar.gz'])
def test_a_tree_in_natural_order_read_once(tmp_path, packed, monkeypatch):
  path = tmp_path / f'race.{packed}'
  if packed == 'zip':
    with zipfile.ZipFile(path, 'w') as archive:
      for member, text in TREE.items():
        archive.writestr(member, text)
  elif packed:
    pack_tar(path, TREE)
  else:
    for member, text in TREE.items():
      (tmp_path / member).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / member).write_text(text)
  found = archives.find_all(tmp_path, 'dev/high/*.txt', ('RACE',))
  opened = []
  given = tarfile.open
  monkeypatch.setattr(
    tarfile, 'open', lambda *args: opened.append(args) or given(*args)
  )
  got = [(source.name, data) for source, data in archives.contents(found)]
  assert got == [('9.txt', b'9'), ('10.txt', b'10'), ('100.txt', b'100')]
  assert len(opened) == (packed == 'tar.gz')


def test_damaged_tar_is_named(tmp_path):
  path = tmp_path / 'SST-2.tar.gz'
  pack_tar(path, {'SST-2/dev.tsv': ''.join(map(str, range(50_000)))})
  path.write_bytes(path.read_bytes()[:-5000])
  with pytest.raises(errors.UserError, match=r'gz: damaged archive'):
    archives.find(path, NAMES, FOLDERS)
