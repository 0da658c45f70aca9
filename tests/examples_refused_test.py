"""Tests that a mistake in a task's file is one line, and what is dropped."""

import json

import pytest
from absl import logging

from gpt1_jax.errors import UserError
from gpt1_jax.tasks import examples, table
from gpt1_jax.tasks.examples import Example
from gpt1_jax.tasks.readers import sources
from tests.support.refusals import assert_refused
from tests.support.task_files import jsonl, own, write


@pytest.fixture
def warned(monkeypatch):
  said = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *values: said.append(text % values)
  )
  return said


def test_broken_rows_of_qqp_are_dropped_and_counted(tmp_path, warned):
  head = 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate'
  lines = [head, '1\t1\t2\ta\tb\t1', '2\t3\t4\tbroken', 'off\t0', '3\t5\t6']
  write(tmp_path, 'train.tsv', [*lines, '4\t7\t8\tc\td\t0'])
  found = examples.read(table.TASKS['qqp'], tmp_path, 'train')
  assert found == [Example(('a', 'b'), (), 1), Example(('c', 'd'), (), 0)]
  (line,) = warned
  assert '3 broken rows, dropped' in line
  write(tmp_path, 'test.tsv', ['id\tquestion1\tquestion2', '0\ta', '1\tb\tc'])
  found = examples.read(table.TASKS['qqp'], tmp_path, 'test')
  assert [e.texts for e in found] == [('a', ''), ('b', 'c')]  # none is dropped


OWN = {'kind': 'entailment', 'labels': ('no', 'yes')}
CLASSES = {**OWN, 'kind': 'classification'}
VALUE = {'kind': 'classification', 'bounds': (0.0, 5.0)}
CHOICE = {'kind': 'choice'}
GOOD = {'text': 'a', 'text_pair': 'b', 'choices': ['c', 'd'], 'label': 'no'}


@pytest.mark.parametrize(
  ('fields', 'change', 'what'),
  [
    (OWN, {'label': 'maybe'}, "label 'maybe' in column 'label'; allowed: no,"),
    (
      OWN,
      {'label': 'maybe'},
      "yes; labels are set with --config.task.labels=\"('no', 'yes', ...)\"",
    ),
    (VALUE, {'label': 'x'}, "set with --config.task.labels=\"('LABEL', "),
    (OWN, {'label': 1}, 'label 1 in column'),
    (OWN, {'label': True}, 'label true in column'),
    (OWN, {'label': ['no']}, "label ['no']"),
    (OWN, {'text': 5}, "'text' is 5, not a text"),
    (OWN, {'text_pair': None}, "'text_pair' is null, not a text"),
    (OWN, {'text_pair': ['b']}, "'text_pair' is ['b'], not a text"),
    (OWN, {'text': 'a\ud800'}, "'text' has an unpaired surrogate (\\ud800)"),
    (VALUE, {'label': 5.5}, 'label 5.5'),
    (VALUE, {'label': 'x'}, 'allowed: a number from 0 to 5'),
    (VALUE, {'label': float('nan')}, 'label nan'),
    (VALUE, {'label': '1_0'}, "label '1_0'"),
    ({'kind': 'classification'}, {'label': 1e16}, 'a number from -1e+15 to '),
    (VALUE, {'label': True}, 'label true'),
    (CHOICE, {'label': 2}, 'label 2 in column'),
    (CHOICE, {'label': -2}, 'allowed: 0, 1'),
    (CHOICE, {'label': 0, 'choices': ['c']}, 'a list of two or more'),
    (CHOICE, {'label': 0, 'choices': ['c', 1]}, 'a list of two or more'),
    (CHOICE, {'label': 0, 'choices': 'cd'}, 'a list of two or more'),
  ],
)
def test_bad_rows_name_file_and_line(tmp_path, fields, change, what):
  good = {**GOOD, 'label': 0} if fields is not OWN else GOOD
  jsonl(tmp_path, 'train.jsonl', good, {**good, **change})
  with assert_refused(what, start=f'{tmp_path}/train.jsonl:2: '):
    examples.read(own(**fields), tmp_path, 'train')


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    (['{"text": "a", "label": "no"}'], "jsonl:1: no 'text_pair' in"),
    (
      [json.dumps(GOOD), '{"text": "a", "text_pair": "b"}'],
      "jsonl:2: no 'label' in this row; it has 'text', 'text_pair'; allowed",
    ),
    (['index\tsentence1\tsentence2', '0\ta\tb'], "tsv:1: no column 'label'"),
    (
      ['index\tsentence1\tsentence2\tlabel', '0\ta'],
      "tsv:2: no 'sentence2' in this",
    ),
  ],
)
def test_missing_columns_are_named(tmp_path, lines, message):
  in_json = lines[0].startswith('{')
  task = own(**OWN) if in_json else table.TASKS['rte']
  write(tmp_path, 'dev.jsonl' if in_json else 'dev.tsv', lines)
  with pytest.raises(UserError, match=message):
    examples.read(task, tmp_path, 'dev')


def test_rows_need_the_same_number_of_choices(tmp_path):
  good = {**GOOD, 'label': 0}
  jsonl(tmp_path, 'dev.jsonl', good, {**good, 'choices': ['a', 'b', 'c']})
  with assert_refused('dev.jsonl:2: 3 choices, and the first row has 2'):
    examples.read(own(**CHOICE), tmp_path, 'dev')
  for number, options in ((1, ['a', 'b']), (2, ['a', 'b', 'c'])):
    article = {'article': 'a', 'questions': ['q'], 'options': [options]}
    jsonl(
      tmp_path / 'dev' / 'high',
      f'{number}.txt',
      {**article, 'answers': ['A']},
    )
  with assert_refused('2.txt, question 1: 3 choices, and the first row has 2'):
    examples.read(table.TASKS['race_high'], tmp_path, 'dev')


@pytest.mark.parametrize(
  ('task', 'file', 'lines'),
  [
    (CLASSES, 'train.csv', ['label,text', 'no,first half, second half']),
    (CLASSES, 'train.csv', ['text,label', 'first half, second half,no']),
    (CLASSES, 'train.tsv', ['label\ttext', 'no\tfirst half\tsecond half']),
    ('cola', 'train.tsv', ['gj04\t1\t\tfirst half\tsecond half']),
    (
      'mrpc',
      'train.tsv',
      [
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String',
        '1\t1\t2\ta\tfirst half\tsecond half',
      ],
    ),
    (
      'stsb',
      'train.tsv',
      ['index\tsentence1\tsentence2\tscore', '0\ta\tfirst\tsecond\t5.0'],
    ),
    ('sst2', 'train.tsv', ['sentence\tlabel', 'first\tsecond\t1']),
  ],
)
def test_rows_longer_than_the_header_are_refused(tmp_path, task, file, lines):
  write(tmp_path, file, lines)
  task = own(**task) if isinstance(task, dict) else table.TASKS[task]
  with assert_refused(
    '1 cells more than', start=f'{tmp_path}/{file}:{len(lines)}: '
  ):
    examples.read(task, tmp_path, 'train')


def test_a_split_in_two_formats_is_refused_unless_one_is_named(tmp_path):
  write(tmp_path, 'train.tsv', ['text\tlabel', 'a\tno'])
  write(tmp_path, 'train.csv', ['text,label', 'b,yes'])
  with assert_refused(f'{tmp_path}/train.csv holds this split, too', start=''):
    examples.read(own(**CLASSES), tmp_path, 'train')
  with pytest.raises(UserError, match='holds this split, too'):
    sources.has(own(**CLASSES), tmp_path, 'train')
  named = own(**CLASSES, files={'train': 'train.tsv'})
  assert examples.read(named, tmp_path, 'train') == [Example(('a',), (), 0)]


def test_a_label_that_no_training_row_has_is_named(tmp_path, warned):
  task = own(kind='classification', labels=('no', 'yes', 'maybe'))
  for split in ('train', 'dev'):
    write(tmp_path, f'{split}.tsv', ['text\tlabel', 'a\tno', 'b\tmaybe'])
    examples.read(task, tmp_path, split)
  (line,) = warned
  assert line.endswith('train.tsv: no row has the label yes')


def test_rows_without_a_label_are_dropped_and_counted(tmp_path, warned):
  hidden = [{**GOOD, 'label': value} for value in (None, -1, '', '-')]
  task = own(**OWN)
  for split in ('train', 'dev'):
    jsonl(tmp_path, f'{split}.jsonl', *hidden, GOOD)
    found = examples.read(task, tmp_path, split)
    assert [(e.label, e.where) for e in found] == [
      (0, f'{tmp_path}/{split}.jsonl:5')
    ]
    assert '4 rows without a label' in warned[0]
    warned.clear()
  jsonl(tmp_path, 'dev.jsonl', *hidden)
  with pytest.raises(UserError, match='no row of split dev has a label'):
    examples.read(task, tmp_path, 'dev')
  jsonl(tmp_path, 'test.jsonl', *hidden)
  assert len(examples.read(task, tmp_path, 'test')) == 4
  # -1 is a value where the bounds allow it.
  jsonl(tmp_path, 'dev.jsonl', {**GOOD, 'label': -1.0}, {**GOOD, 'label': 2})
  for fields, labels in ((VALUE, [2.0]), ({'kind': 'entailment'}, [-1.0, 2.0])):
    found = examples.read(own(**fields), tmp_path, 'dev')
    assert [example.label for example in found] == labels


@pytest.mark.parametrize(
  ('task', 'path', 'split', 'words'),
  [
    (
      'mrpc',
      '.',
      'dev',
      ('no dev file of task mrpc', 'dev.tsv', 'dev_ids.tsv', 'MRPC/'),
    ),
    ('rte', None, 'dev', ('config.data.path is not set',)),
    ('rte', '.', 'validation', ("no split 'validation'",)),
    ('cola', 'SST-2', 'dev', ('folder of task sst2, not of cola',)),
  ],
)
def test_missing_data_says_what_to_set(tmp_path, task, path, split, words):
  write(tmp_path / 'SST-2', 'dev.tsv', ['sentence\tlabel', 'a\t1'])
  with assert_refused(*words):
    examples.read(table.TASKS[task], path and tmp_path / path, split)
