"""Rows come out as written, whatever the form of their file."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.readers import archives, rows
from tests.support.refusals import assert_refused

HEAD = ','.join(('InputStoryid', *rows.STORY, 'AnswerRightEnding')) + '\r\n'
ARTICLE = {
  'article': 'One.\nTwo.',
  'questions': ['He  _  .', 'Why?'],
  'options': [['a', 'b', 'c', 'd'], ['e', 'f', 'g', 'h']],
  'answers': ['D', 'A'],
  'id': 'high1.txt',
}


def read(tmp_path, data, needed=('a', 'b'), columns=(), name='t.tsv'):
  """Returns (line, cells, extra cells) of each row."""
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return [
    (int(row.where.removeprefix(f'{path}:')), row.cells, *row.extra)
    for row in rows.read(archives.Source(path), needed, columns)
  ]


@pytest.mark.parametrize(
  ('name', 'data', 'columns', 'expected'),
  [
    pytest.param(
      't.tsv',
      '\ufeffa\tb\r\n"x\ty"\u2028z\x85\r\n\r\n  p \t\r\n',
      (),
      [(2, {'a': '"x', 'b': 'y"\u2028z\x85'}), (4, {'a': '  p ', 'b': ''})],
      id='quotes and odd separators are text',
    ),
    pytest.param(
      't.tsv',
      ' a\tb \n1\n1\t2\t3\t\t4\t\n1\t2\t\t \n',
      (),
      [
        (2, {'a': '1'}),
        (3, {'a': '1', 'b': '2'}, '3', '', '4'),
        (4, {'a': '1', 'b': '2'}),
      ],
      id='ragged rows keep what they have',
    ),
    pytest.param(
      't.tsv',
      '1\t2\n3\t4\n',
      ('a', 'b'),
      [(1, {'a': '1', 'b': '2'}), (2, {'a': '3', 'b': '4'})],
      id='no header',
    ),
    pytest.param(
      't.tsv', 'b\ta\n1\t2\n', ('a', 'b'), [(2, {'b': '1', 'a': '2'})]
    ),
    *(
      pytest.param(
        name,
        '{"a": "x"}\n\n  {"a": "y"}\n',
        (),
        [(1, {'a': 'x'}), (3, {'a': 'y'})],
        id='JSON lines by name or by look',
      )
      for name in ('t.jsonl', 'T.JSONL', 't.txt')
    ),
    pytest.param('t.txt', '  {"a": 1}\n', (), [(1, {'a': 1})]),
    pytest.param(
      't.csv',
      'a, b\nx, "y, ""z"""\n  x,"  y"\n',
      (),
      [(2, {'a': 'x', 'b': 'y, "z"'}), (3, {'a': 'x', 'b': '  y'})],
      id='a quote may follow a blank',
    ),
    pytest.param(
      't.tsv',
      'a\tb\nx\t "y"\n',
      (),
      [(2, {'a': 'x', 'b': ' "y"'})],
      id='quotes and blanks are text in a .tsv',
    ),
    pytest.param(
      'T.CSV',
      '\ufeffa,b\r\n"x, ""y""","z\r\nw"\r\n\r\n"1","2",3\r\n',
      (),
      [
        (2, {'a': 'x, "y"', 'b': 'z\r\nw'}),
        (5, {'a': '1', 'b': '2'}, '3'),
      ],
      id='comma-separated, named by the first line of each row',
    ),
  ],
)
def test_rows_are_read(tmp_path, name, data, columns, expected):
  assert read(tmp_path, data, columns=columns, name=name) == expected


def test_a_cell_may_be_long(tmp_path):
  """Longer than csv's own limit of 131,072 characters."""
  long = 'word ' * 300_000
  data = f'a,b\nx,"{long}"\n'
  assert read(tmp_path, data, name='t.csv') == [(2, {'a': 'x', 'b': long})]


@pytest.mark.parametrize(
  ('name', 'data', 'what'),
  [
    ('t.tsv', '', 't.tsv: no rows'),
    ('t.tsv', 'a\tb\n', 't.tsv: no rows'),
    ('t.tsv', 'a\tc\n1\t2\n', "t.tsv:1: no column 'b' in the header: 'a', 'c'"),
    ('t.tsv', 'a\tb\tb\n1\t2\t3\n', "t.tsv:1: two columns 'b' in the header"),
    ('t.csv', 'c,a,b,c\n1,2,3,4\n', "t.csv:1: two columns 'c' in the header"),
    ('t.tsv', b'a\tb\ncaf\xe9\t1\n', 't.tsv:2: not UTF-8 (byte 0xe9 at 4)'),
    ('t.tsv', b'\xef\xbb\xbfa\xe9', 't.tsv:1: not UTF-8 (byte 0xe9 at 5)'),
    ('t.tsv', 'a\tb\n'.encode('utf-16'), 't.tsv:1: not UTF-8'),
    ('t.jsonl', '', 't.jsonl: no rows'),
    ('t.jsonl', '{"a": 1}\n{"a": "x', 't.jsonl:2: not a JSON object'),
    ('t.jsonl', '[1]\n', 't.jsonl:1: a JSON list, not an object'),
    ('t.jsonl', '{"a": ' + '[' * 100_000, 't.jsonl:1: not a JSON object'),
    ('t.jsonl', '{"a": ' + '[' * 200 + ']' * 200 + '}', 'nested in more than'),
    ('t.jsonl', '{"a": ' + '1' * 5000, 't.jsonl:1: not a JSON object'),
    (
      't.jsonl',
      '{"a": 1, "b": 2, "a": 3}\n',
      "t.jsonl:1: not a JSON object (the key 'a' appears twice in one object)",
    ),
    ('t.csv', 'a,b\r1,2\r', 't.csv:1: a line ends in a carriage return (CR)'),
    ('t.csv', 'a,b\n1,2\r3,4\n', 't.csv:2: a line ends in a carriage return'),
    ('t.tsv', 'a\tb\r1\t2\r', 't.tsv:1: a line ends in a carriage return'),
    ('t.csv', '', 'no rows'),
    ('t.csv', 'a,b\r\n', 'no rows'),
    ('t.csv', 'a,c\n1,2\n', "t.csv:1: no column 'b' in the header: 'a', 'c'"),
    (
      't.csv',
      'a,b\nx,"y\nz',
      't.csv:2: not comma-separated values (unexpected end',
    ),
    (
      't.csv',
      'a,b\nx,' + 'y' * (2**24 + 1),
      't.csv:2: a cell of more than 16,777,216 characters; close its quote',
    ),
    ('t.csv', b'a,b\nx,"\ncaf\xe9"\n', 't.csv:3: not UTF-8 (byte 0xe9 at 4)'),
  ],
)
def test_mistakes_name_file_and_line(tmp_path, name, data, what):
  with assert_refused(what, start=f'{tmp_path}/{name}'):
    read(tmp_path, data, name=name)


def test_a_story_has_a_context_and_two_endings(tmp_path):
  data = HEAD + 'id,"A, ""b""",c,d,"e\nf",g,h,2\r\n'
  ((_, cells),) = read(tmp_path, data, rows.STORY, name='t.csv')
  story = rows.story(cells)
  assert story['context'] == 'A, "b" c d e\nf'
  assert story['endings'] == ['g', 'h']
  assert story['AnswerRightEnding'] == '2'
  assert rows.story({'InputSentence1': 'a'}) == {'InputSentence1': 'a'}


def test_articles_become_questions(tmp_path):
  path = tmp_path / '1.txt'
  path.write_text(json.dumps(ARTICLE))
  first, second = rows.articles([archives.Source(path)])
  assert first == rows.Row(
    f'{path}, question 1',
    {
      'article': 'One.\nTwo.',
      'question': 'He  _  .',
      'options': ['a', 'b', 'c', 'd'],
      'answer': 'D',
    },
  )
  assert second.where == f'{path}, question 2'
  assert (second.cells['question'], second.cells['answer']) == ('Why?', 'A')


@pytest.mark.parametrize(
  ('data', 'what'),
  [
    (b'', 'not a JSON object (Expecting value at character 1)'),
    (b'\xff', 'not UTF-8 (byte 0xff at 1)'),
    (b'[]', 'a JSON list, not an object'),
    (b'{"article": "a"}', "RACE needs 'questions'; this file has 'article'"),
    (
      json.dumps({**ARTICLE, 'answers': ['A']}).encode(),
      '2 questions, 2 options, 1 answers; the numbers must be equal',
    ),
  ],
)
def test_mistakes_in_articles_name_the_file(tmp_path, data, what):
  path = tmp_path / '1.txt'
  path.write_bytes(data)
  with assert_refused(what, start=f'{path}: '):
    list(rows.articles([archives.Source(path)]))


@settings(max_examples=300, deadline=None)
@given(
  name=st.sampled_from(['x.tsv', 'x.csv', 'x.jsonl']),
  data=st.binary(max_size=60)
  | st.text('ab,\t"\n\r{}[]:1\\u\ud7ff ', max_size=60).map(str.encode),
)
def test_any_bytes_give_rows_or_one_line(tmp_path_factory, name, data):
  path = tmp_path_factory.getbasetemp() / name
  path.write_bytes(data)
  said = f'{path}:'
  try:
    for row in rows.read(archives.Source(path), ('a',)):
      assert row.where.startswith(said)
  except UserError as error:
    said = str(error)
  assert said.startswith(f'{path}:')
  assert '\n' not in said
