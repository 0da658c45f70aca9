"""Files are found in folders, zips and tars, unpacked or not."""

import tarfile

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives, rows
from tests.support.refusals import assert_refused
from tests.support.task_archives import pack, unpack

NAMES, FOLDERS = ('dev.tsv',), ('SST-2',)
TABLE = 'sentence\tlabel\nfine\t1\n'


def find(path, names=NAMES, folders=FOLDERS):
  return next(iter(archives.find(path, names, folders)), None)


def read(source):
  return list(rows.read(source, ['sentence']))


@pytest.mark.parametrize(
  'place', ['dev.tsv', 'SST-2/dev.tsv', 'sst2/dev.tsv', 'glue/SST-2/dev.tsv']
)
def test_finds_a_plain_file(tmp_path, place):
  path = unpack(tmp_path, {place: TABLE}) / place
  source = find(tmp_path)
  assert str(source) == str(path)
  assert read(source) == [
    rows.Row(f'{path}:2', {'sentence': 'fine', 'label': '1'})
  ]


@pytest.mark.parametrize('inside', [False, True])
@pytest.mark.parametrize(
  ('name', 'member'),
  [
    ('SST-2.zip', 'dev.tsv'),
    ('SST-2.zip', 'SST-2/dev.tsv'),
    ('SST-2.zip', 'x/y/dev.tsv'),
    ('SST-2.tar.gz', 'x/SST-2/dev.tsv'),
    ('sst2.tgz', 'x/SST-2/dev.tsv'),
    ('SST-2.tar', 'x/SST-2/dev.tsv'),
  ],
)
def test_finds_a_member_of_an_archive(tmp_path, name, member, inside):
  path = pack(tmp_path / name, {'other/a.tsv': 'a\tb\n', member: TABLE})
  source = find(tmp_path if inside else path)
  assert str(source) == f'{path}/{member}'
  assert source.name == 'dev.tsv'
  if 'SST-2/' in member:
    assert source.folder == 'sst2'
  assert len(read(source)) == 1


def test_takes_the_folder_of_the_task_from_an_archive_of_many(tmp_path):
  folders = ('CoLA', 'SST-2', 'RTE', '__MACOSX/SST-2')
  path = pack(tmp_path / 'all.zip', {f'{f}/dev.tsv': f for f in folders})
  assert find(path).member == 'SST-2/dev.tsv'
  assert find(path, folders=('QQP',)) is None


def test_nearer_folders_win(tmp_path):
  for place in ('a/SST-2', 'a/b/SST-2', 'SST-2', '.'):
    unpack(tmp_path, {f'{place}/dev.tsv': TABLE})
  for place in ('.', 'SST-2', 'a/SST-2'):
    found = find(tmp_path)
    assert found.path == tmp_path / place / 'dev.tsv'
    found.path.unlink()
  assert find(tmp_path) is None  # three levels down


def test_says_where_it_looked(tmp_path):
  assert find(tmp_path) is None
  said = str(archives.missing('dev file', tmp_path, NAMES, FOLDERS))
  for word in (str(tmp_path), 'dev.tsv', 'SST-2/', '*/SST-2/', 'zips and tars'):
    assert word in said


def test_the_first_name_is_preferred(tmp_path):
  unpack(tmp_path, {'a.tsv': TABLE, 'b.tsv': TABLE})
  assert find(tmp_path, ('b.tsv', 'a.tsv'), ()).path.name == 'b.tsv'


def test_refuses_a_path_that_is_no_folder_and_no_archive(tmp_path):
  with pytest.raises(UserError, match='no such file'):
    find(tmp_path / 'absent')
  (tmp_path / 'file').write_text('x')
  with pytest.raises(UserError, match='neither a folder nor a zip or'):
    find(tmp_path / 'file')


def test_archives_of_another_name_serve_if_they_hold_the_folder(tmp_path):
  pack(tmp_path / 'a.zip', {'QQP/dev.tsv': TABLE})
  pack(tmp_path / 'b.zip', {'dev.tsv': TABLE})
  assert find(tmp_path) is None
  other = pack(tmp_path / 'c.tar.gz', {'glue/SST-2/dev.tsv': TABLE})
  assert find(tmp_path).path == other
  named = pack(tmp_path / 'SST-2.zip', {'x/dev.tsv': TABLE})
  assert find(tmp_path).path == named  # before archives of other names
  (tmp_path / 'SST-2').mkdir()
  inside = pack(tmp_path / 'SST-2' / 'd.zip', {'SST-2/dev.tsv': TABLE})
  named.unlink()
  other.unlink()
  assert find(tmp_path).path == inside


TREE = {f'RACE/dev/high/{n}.txt': str(n) for n in (10, 9, 100)}
TREE |= {'RACE/dev/middle/1.txt': 'm', 'RACE/dev/high/.DS_Store': 'x'}
TREE |= {'RACE/dev/high/._9.txt': 'x', '__MACOSX/RACE/dev/high/9.txt': 'x'}


@pytest.mark.parametrize('packed', ['', 'zip', 'tar.gz'])
def test_reads_a_tree_in_natural_order_once(tmp_path, packed, monkeypatch):
  if packed:
    pack(tmp_path / f'race.{packed}', TREE)
  else:
    unpack(tmp_path, TREE)
  found = archives.find(tmp_path, ('dev/high/*.txt',), ('RACE',))
  opened = []
  given = tarfile.open
  monkeypatch.setattr(
    tarfile, 'open', lambda *args: opened.append(args) or given(*args)
  )
  got = [(source.name, data) for source, data in archives.contents(found)]
  assert got == [('9.txt', b'9'), ('10.txt', b'10'), ('100.txt', b'100')]
  assert len(opened) == (packed == 'tar.gz')


def test_names_a_damaged_archive(tmp_path):
  path = pack(tmp_path / 'SST-2.zip', {'dev.tsv': TABLE * 500})
  data = bytearray(path.read_bytes())
  data[45:55] = bytes(10)
  path.write_bytes(data)
  source = find(path)
  with pytest.raises(UserError, match=r'SST-2\.zip: damaged archive'):
    read(source)
  long = ''.join(map(str, range(50_000)))
  path = pack(tmp_path / 'SST-2.tar.gz', {'SST-2/dev.tsv': long})
  path.write_bytes(path.read_bytes()[:-5000])
  with pytest.raises(UserError, match=r'gz: damaged archive'):
    find(path)


@pytest.mark.parametrize('size', [2, 5, 30])
def test_a_cut_archive_is_named(tmp_path, size):
  path = pack(tmp_path / 'SST-2.tar.gz', {'SST-2/dev.tsv': TABLE})
  path.write_bytes(path.read_bytes()[:size])
  for place in (path, tmp_path):
    with pytest.raises(UserError, match=r'SST-2\.tar\.gz'):
      assert find(place), f'{path}: not found'


def test_a_zip_with_a_name_that_is_not_utf_8_is_named(tmp_path):
  path = pack(tmp_path / 'SST-2.zip', {'dév.tsv': TABLE, 'dev.tsv': TABLE})
  path.write_bytes(path.read_bytes().replace('é'.encode(), b'\xff\xff'))
  with assert_refused('utf-8', start=f'{path}: damaged archive'):
    find(path)


def test_a_zip_with_another_name_before_its_member_is_named(tmp_path):
  """The name is stored twice: in the index, and before the member."""
  path = pack(tmp_path / 'SST-2.zip', {'dév.tsv': TABLE, 'dev.tsv': TABLE})
  data = path.read_bytes()
  path.write_bytes(data.replace('é'.encode(), b'\xff\xff', 1))
  assert read(find(path))
  with assert_refused('utf-8', start=f'{path}: damaged archive'):
    read(archives.Source(path, 'dév.tsv'))


def test_a_member_without_a_name_is_left_out(tmp_path):
  path = pack(tmp_path / 'SST-2.zip', {'x': '', 'SST-2/dev.tsv': TABLE})
  data = path.read_bytes()
  entry = data.index(b'PK\x01\x02')
  assert data[entry + 46 : entry + 47] == b'x'
  path.write_bytes(data[: entry + 46] + b'\0' + data[entry + 47 :])
  assert read(find(path))


def test_an_encrypted_member_is_one_line(tmp_path):
  path = pack(tmp_path / 'SST-2.zip', {'dev.tsv': TABLE})
  data = bytearray(path.read_bytes())
  for header, flags in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    data[data.index(header) + flags] |= 1
  path.write_bytes(data)
  with assert_refused('encrypted', start=f'{path}: damaged archive'):
    read(find(path))


def test_a_file_of_zeros_is_refused_before_it_is_in_memory(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(archives, 'MAX_BYTES', 1000)
  path = pack(tmp_path / 'SST-2.zip', {'dev.tsv': TABLE + '\0' * 2000})
  with assert_refused('longer than', start=f'{path}/dev.tsv:3: '):
    read(find(path))
  path = pack(tmp_path / 'RACE.zip', {'dev/high/1.txt': '\0' * 2000})
  (source,) = archives.find(path, ('dev/high/*.txt',), ('RACE',))
  with assert_refused('longer than', start=f'{path}/dev/high/1.txt: '):
    list(archives.contents([source]))


def test_superscripts_are_no_numbers():
  names = ['10', '\u0662', '\u00b2', '2']
  assert sorted(names, key=archives.natural) == ['2', '10', '\u00b2', '\u0662']
