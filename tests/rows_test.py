"""Rows come out as written, whatever the form of their file."""

import json

import pytest

from gpt1_jax import errors
from gpt1_jax.tasks.readers import archives, rows


def read(tmp_path, data, needed=('a', 'b'), columns=(), name='t.tsv'):
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  found = list(rows.read(archives.Source(path), needed, columns))
  assert [row.number for row in found] == list(range(len(found)))
  lines = [row.where.removeprefix(f'{path}:') for row in found]
  return [(int(n), row.cells) for n, row in zip(lines, found, strict=True)]


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
    ('t.jsonl', '[1]\n', 't.jsonl:1: a JSON list, not an object'),
  ],
)
def test_mistakes_name_file_and_line(tmp_path, name, data, what):
  with pytest.raises(errors.UserError) as caught:
    read(tmp_path, data, name=name)
  assert what in str(caught.value)
  assert '\n' not in str(caught.value)


STORY = (
  'InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,'
  'RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\r\n'
)


def test_comma_separated_values(tmp_path):
  data = STORY + 'id,"A, ""b""",c,d,"e\nf",g,h,2\r\n\r\nid2,a,b,c,d,e,f,1\r\n'
  found = read(tmp_path, '\ufeff' + data, rows.STORY, name='t.csv')
  assert [number for number, _ in found] == [3, 5]
  story = rows.story(found[0][1])
  assert story['context'] == 'A, "b" c d e\nf'
  assert story['endings'] == ['g', 'h']
  assert story['AnswerRightEnding'] == '2'
  assert rows.story({'InputSentence1': 'a'}) == {'InputSentence1': 'a'}


@pytest.mark.parametrize(
  ('data', 'what'),
  [
    ('', 'no rows'),
    (STORY, 'no rows'),
    ('a,b\n1,2\n', "t.csv:1: no column 'InputSentence1' in the header: 'a'"),
    (STORY + 'id,"a', 't.csv:2: not comma-separated values (unexpected end'),
    (STORY.encode() + b'id,caf\xe9\n', 't.csv:'),
  ],
)
def test_mistakes_in_comma_separated_values(tmp_path, data, what):
  with pytest.raises(errors.UserError) as caught:
    read(tmp_path, data, rows.STORY, name='t.csv')
  assert what in str(caught.value)
  assert '\n' not in str(caught.value)


ARTICLE = {
  'article': 'One.\nTwo.',
  'questions': ['He  _  .', 'Why?'],
  'options': [['a', 'b', 'c', 'd'], ['e', 'f', 'g', 'h']],
  'answers': ['D', 'A'],
  'id': 'high1.txt',
}


def test_articles_become_questions(tmp_path):
  path = tmp_path / '1.txt'
  path.write_text(json.dumps(ARTICLE))
  found = list(rows.articles([archives.Source(path)]))
  assert [row.where for row in found] == [
    f'{path}, question 1',
    f'{path}, question 2',
  ]
  assert found[0].cells == {
    'article': 'One.\nTwo.',
    'question': 'He  _  .',
    'options': ['a', 'b', 'c', 'd'],
    'answer': 'D',
  }
  assert (found[1].cells['question'], found[1].cells['answer']) == ('Why?', 'A')


@pytest.mark.parametrize(
  ('data', 'what'),
  [
    (b'', 'not a JSON object (Expecting value at line 1)'),
    (b'\xff', 'not UTF-8 at byte 0'),
    (b'[]', 'not a JSON object'),
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
  with pytest.raises(errors.UserError) as caught:
    list(rows.articles([archives.Source(path)]))
  assert str(caught.value).startswith(f'{path}: ')
  assert what in str(caught.value)
