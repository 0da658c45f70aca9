"""Files are found however they were unpacked; rows come out as written."""

import zipfile

import pytest

from gpt1_jax import errors
from gpt1_jax.data import rows

NAMES, FOLDERS = ('dev.tsv',), ('SST-2',)
TABLE = 'sentence\tlabel\nfine\t1\n'


def pack(path, member, text=TABLE):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(member, text)


@pytest.mark.parametrize(
  'place', ['dev.tsv', 'SST-2/dev.tsv', 'sst2/dev.tsv', 'glue/SST-2/dev.tsv']
)
def test_found_in_a_folder(tmp_path, place):
  path = tmp_path / place
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(TABLE)
  source = rows.find(tmp_path, NAMES, FOLDERS)
  assert str(source) == str(path)
  assert list(rows.read(source, ['sentence'])) == [
    (2, {'sentence': 'fine', 'label': '1'})
  ]


@pytest.mark.parametrize('member', ['dev.tsv', 'SST-2/dev.tsv', 'x/y/dev.tsv'])
@pytest.mark.parametrize('inside', [False, True])
def test_found_in_a_zip(tmp_path, member, inside):
  path = tmp_path / 'SST-2.zip'
  pack(path, member)
  source = rows.find(tmp_path if inside else path, NAMES, FOLDERS)
  assert str(source) == f'{path}/{member}'
  assert len(list(rows.read(source, ['sentence']))) == 1


def test_a_zip_of_many_tasks_gives_the_right_one(tmp_path):
  path = tmp_path / 'all.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    for folder in ('CoLA', 'SST-2', 'RTE', '__MACOSX/SST-2'):
      archive.writestr(f'{folder}/dev.tsv', folder)
  assert rows.find(path, NAMES, FOLDERS).member == 'SST-2/dev.tsv'
  assert rows.find(path, NAMES, ('QQP',)) is None


def test_nearer_folders_win(tmp_path):
  for place in ('a/SST-2', 'a/b/SST-2', 'SST-2', '.'):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'dev.tsv').write_text(TABLE)
  for place in ('.', 'SST-2', 'a/SST-2'):
    found = rows.find(tmp_path, NAMES, FOLDERS)
    assert found.path == tmp_path / place / 'dev.tsv'
    found.path.unlink()
  assert rows.find(tmp_path, NAMES, FOLDERS) is None  # three levels down


def test_not_found_is_none_and_says_where_it_looked(tmp_path):
  assert rows.find(tmp_path, NAMES, FOLDERS) is None
  said = rows.looked_for(tmp_path, NAMES, FOLDERS)
  for word in (str(tmp_path), 'dev.tsv', 'SST-2/', '*/SST-2/', 'SST-2.zip'):
    assert word in said


def test_first_name_is_preferred(tmp_path):
  for name in ('a.tsv', 'b.tsv'):
    (tmp_path / name).write_text(TABLE)
  assert rows.find(tmp_path, ('b.tsv', 'a.tsv'), ()).path.name == 'b.tsv'


def test_no_such_path_and_no_zip(tmp_path):
  with pytest.raises(errors.UserError, match='no such file'):
    rows.find(tmp_path / 'absent', NAMES, FOLDERS)
  (tmp_path / 'file').write_text('x')
  with pytest.raises(errors.UserError, match='neither a folder nor a zip'):
    rows.find(tmp_path / 'file', NAMES, FOLDERS)


def test_damaged_zip_is_named(tmp_path):
  path = tmp_path / 'SST-2.zip'
  pack(path, 'dev.tsv', TABLE * 500)
  data = bytearray(path.read_bytes())
  data[45:55] = bytes(10)
  path.write_bytes(data)
  source = rows.find(path, NAMES, FOLDERS)
  with pytest.raises(errors.UserError, match=r'dev\.tsv: damaged zip'):
    list(rows.read(source, ['sentence']))


def read(tmp_path, data, needed=('a', 'b'), columns=(), name='t.tsv'):
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return list(rows.read(rows.Source(path), needed, columns))


def test_quotes_and_odd_separators_are_text(tmp_path):
  data = '\ufeffa\tb\r\n"x\ty"\u2028z\x85\r\n\r\n  p \t\r\n'
  assert read(tmp_path, data) == [
    (2, {'a': '"x', 'b': 'y"\u2028z\x85'}),
    (4, {'a': '  p ', 'b': ''}),
  ]


def test_ragged_rows_keep_what_they_have(tmp_path):
  assert read(tmp_path, 'a\tb\tc\n1\n1\t2\t3\t4\n') == [
    (2, {'a': '1'}),
    (3, {'a': '1', 'b': '2', 'c': '3'}),
  ]


def test_table_without_header(tmp_path):
  found = read(tmp_path, '1\t2\n3\t4\n', columns=('a', 'b'))
  assert found == [(1, {'a': '1', 'b': '2'}), (2, {'a': '3', 'b': '4'})]
  headed = read(tmp_path, 'b\ta\n1\t2\n', columns=('a', 'b'))
  assert headed == [(2, {'b': '1', 'a': '2'})]


def test_json_lines_by_name_or_by_look(tmp_path):
  expected = [(1, {'a': 'x'}), (3, {'a': 'y'})]
  for name in ('t.jsonl', 't.txt'):
    assert read(tmp_path, '{"a": "x"}\n\n{"a": "y"}\n', name=name) == expected


@pytest.mark.parametrize(
  ('name', 'data', 'what'),
  [
    ('t.tsv', '', 't.tsv: no rows'),
    ('t.tsv', 'a\tb\n', 't.tsv: no rows'),
    ('t.tsv', 'a\tc\n1\t2\n', "t.tsv:1: no column 'b' in the header: 'a', 'c'"),
    ('t.tsv', b'a\tb\ncaf\xe9\t1\n', 't.tsv:2: not UTF-8 (byte 0xe9 at 4'),
    ('t.tsv', 'a\tb\n'.encode('utf-16'), 't.tsv:1: not UTF-8'),
    ('t.jsonl', '', 't.jsonl: no rows'),
    ('t.jsonl', '{"a": 1}\n{"a": "x', 't.jsonl:2: not a JSON object'),
    ('t.jsonl', '[1]\n', 't.jsonl:1: a JSON list'),
  ],
)
def test_mistakes_name_file_and_line(tmp_path, name, data, what):
  with pytest.raises(errors.UserError) as caught:
    read(tmp_path, data, name=name)
  assert what in str(caught.value)
  assert '\n' not in str(caught.value)
