"""Rows become examples, and every mistake in a user's file is one line."""

import json
import zipfile

import pytest
from absl import logging

from gpt1_jax import config
from gpt1_jax.errors import UserError
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import examples, table
from gpt1_jax.tasks.examples import Example
from gpt1_jax.tasks.readers import sources
from tests.support.refusals import assert_refused


def write(folder, name, lines):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text(''.join(f'{line}\n' for line in lines))


def jsonl(folder, name, *objects):
  write(folder, name, [json.dumps(o) for o in objects])


def own(**fields):
  return table.resolve(config.parse(OwnTask, fields))


@pytest.fixture
def warned(monkeypatch):
  said = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *values: said.append(text % values)
  )
  return said


@pytest.mark.parametrize(
  ('name', 'rows', 'first'),
  [
    ('CoLA', (8551, 1043), 1),
    ('SST-2', (67349, 872), 1),
    ('RTE', (2490, 277), 1),
    ('STS-B', (5749, 1500), 5.0),
  ],
)
def test_real_glue_tasks_are_read_whole(shared_data, name, rows, first):
  task = table.TASKS[name.lower().replace('-', '')]
  glue = shared_data / 'tasks' / 'glue'
  for split, count in zip(('train', 'dev'), rows, strict=True):
    found = examples.read(task, glue / name, split)
    head = name != 'CoLA'
    assert [int(example.where.rpartition(':')[2]) for example in found] == list(
      range(1 + head, 1 + head + count)
    )
    if split == 'train':
      assert found[0].label == first
  assert examples.read(task, glue, 'dev') == found
  assert not sources.has(task, glue, 'test')


# Task, real archive, rows in its splits, the last training example.
ARCHIVES = [
  ('cola', 'glue-cola', {'train': 3, 'dev': 2, 'test': 1}, 'One more', 1),
  ('sst2', 'glue-sst2', {'train': 3, 'dev': 2, 'test': 1}, 'that loves', 1),
  ('rte', 'glue-rte', {'train': 3, 'dev': 2, 'test': 1}, 'Herceptin', 0),
  ('wnli', 'glue-wnli', {'train': 3, 'dev': 2, 'test': 1}, 'The police', 1),
  ('qnli', 'glue-qnli', {'train': 3, 'dev': 2, 'test': 1}, 'What two', 0),
  ('qqp', 'glue-qqp', {'train': 3, 'dev': 2, 'test': 1}, 'What causes', 0),
  ('stsb', 'glue-stsb', {'train': 3, 'dev': 2, 'test': 1}, 'A man is', 3.8),
  ('mrpc', 'glue-mrpc', {'train': 10, 'dev': 8, 'test': 15}, 'As well', 0),
  ('mnli', 'glue-mnli', {'train': 3, 'dev_mismatched': 2}, 'One of our', 0),
  ('mnli', 'multi_nli-0.0.0', {'train': 4, 'dev': 4}, 'How do you', 0),
  ('race', 'race-all', {'train': 22, 'dev': 17}, 'One warm', 2),
  ('snli', 'snli-plain_text', {'train': 3, 'dev': 2, 'test': 1}, 'A person', 0),
  ('scitail', 'scitail-tsv_format', {'train': 6, 'dev': 6}, 'kinetic', 0),
  ('scitail', 'scitail-dgem_format', {'train': 2, 'test': 2}, 'Wavelength', 0),
  ('scitail', 'scitail-predictor_format', {'train': 2}, 'Wavelength', 0),
  ('scitail', 'scitail-snli_format', {'train': 4}, 'Photosynthesis', 1),
]


@pytest.mark.parametrize(
  ('name', 'archive', 'counts', 'text', 'label'),
  ARCHIVES,
  ids=[row[1] for row in ARCHIVES],
)
def test_real_archives(
  shared_data, tmp_path, name, archive, counts, text, label
):
  task = table.TASKS[name]
  path = shared_data / 'tasks' / 'archives' / f'{archive}.zip'
  zipfile.ZipFile(path).extractall(tmp_path)
  for split, count in counts.items():
    found = examples.read(task, path, split)
    assert len(found) == count
    if archive != 'glue-stsb':  # its folder is misspelled SST-B
      assert examples.read(task, tmp_path / 'dummy_data', split) == found
  last = examples.read(task, path, 'train')[-1]
  assert last.texts[0].startswith(text)
  assert last.label == label
  assert len(last.texts) == len(task.texts)


def test_hidden_test_labels_keep_their_rows(archives):
  found = examples.read(table.TASKS['rte'], archives, 'test')
  assert [example.label for example in found] == [None, None]


def test_mrpc_as_glue_ships_it(tmp_path):
  head = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String'
  write(tmp_path / 'MRPC', 'train.tsv', [head, '1\t1\t2\ta "b\tc'])
  write(tmp_path / 'MRPC', 'dev.tsv', ['\ufeff' + head, '0\t1\t2\td\te'])
  write(tmp_path / 'MRPC', 'dev_ids.tsv', ['1\t2'])
  task = table.TASKS['mrpc']
  assert examples.read(task, tmp_path, 'train') == [
    Example(('a "b', 'c'), (), 1)
  ]
  assert examples.read(task, tmp_path, 'dev')[0].texts == ('d', 'e')


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


def test_own_tasks_of_every_kind(tmp_path):
  task = own(kind='classification', labels=('no', 'yes'))
  jsonl(tmp_path, 'train.jsonl', {'text': 'a', 'label': 'yes', 'more': 1})
  assert examples.read(task, tmp_path, 'train') == [Example(('a',), (), 1)]
  pair = {'text': 'a', 'text_pair': 'b'}
  for task, given, labels in (
    (own(kind='entailment', labels=(0, 1)), (1, 0.0, '1'), [1, 0, 1]),
    (own(kind='similarity'), (2, -0.5), [2.0, -0.5]),
  ):
    jsonl(tmp_path, 'dev.jsonl', *[{**pair, 'label': value} for value in given])
    found = examples.read(task, tmp_path, 'dev')
    assert [example.label for example in found] == labels
  row = {'text': 'a', 'choices': ['b', 'c', 'd'], 'label': 2}
  jsonl(tmp_path / 'ends', 'test.jsonl', row)
  found = examples.read(own(kind='choice', name='ends'), str(tmp_path), 'test')
  assert found == [Example(('a',), ('b', 'c', 'd'), 2)]
  jsonl(tmp_path, 'test.jsonl', {**row, 'label': 'B'})
  letters = own(kind='choice', labels=tuple('ABCD'))
  assert examples.read(letters, tmp_path, 'test')[0].label == 1


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
      "jsonl:2: no 'label' in this row; allowed: no, yes",
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


SNLI = [
  'index',
  'captionID',
  'pairID',
  'sentence1_binary_parse',
  'sentence2_binary_parse',
  'sentence1_parse',
  'sentence2_parse',
  'sentence1',
  'sentence2',
  'label1',
  'gold_label',
]


def test_snli_as_glue_ships_it(tmp_path):
  """Its header has 11 names; a row that five people labelled has 15 cells."""
  texts = ['0', 'c', 'p', 'b', 'b', 'p', 'p', 'one', 'two']
  labels = ['contradiction', 'entailment', 'neutral', 'neutral', 'entailment']
  given = [SNLI, [*texts, 'neutral', 'neutral'], [*texts, *labels, 'neutral']]
  given.append([*texts, *labels, '-'])  # no majority
  write(tmp_path / 'SNLI', 'train.tsv', map('\t'.join, given))
  found = examples.read(table.TASKS['snli'], tmp_path, 'train')
  assert found == [Example(('one', 'two'), (), 1)] * 2


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


E_ACUTE = ('\xe9', 'e\u0301')  # composed and decomposed


@pytest.mark.parametrize(
  ('labels', 'given'),
  [
    ((False, True), (False, True)),
    ((False, True), ('False', 'True')),
    ((0.5, 1.0), (0.5, 1)),
    ((1.0, 2.0), ('1', '2.0')),
    ((1, 2), ('1.0', 2.0)),
    (('no', ' yes'), (' no ', 'yes')),
    ((E_ACUTE[0], 'e'), (E_ACUTE[1], 'e')),
    ((E_ACUTE[1], 'e'), (E_ACUTE[0], 'e')),
  ],
)
def test_labels_match_whatever_their_type(tmp_path, labels, given):
  task = own(kind='classification', labels=labels)
  jsonl(tmp_path, 'train.jsonl', *({'text': 'a', 'label': x} for x in given))
  found = examples.read(task, tmp_path, 'train')
  assert [example.label for example in found] == [0, 1]


@pytest.mark.parametrize('form', ['csv', 'tsv'])
def test_own_tasks_from_tables(tmp_path, form):
  mark = {'csv': ',', 'tsv': '\t'}[form]
  rows = [
    ('label', 'text', 'text_pair'),
    ('no', ' a "b"', 'c'),
    ('yes', 'd', ''),
  ]
  write(tmp_path, f'train.{form}', map(mark.join, rows))
  text = {'csv': 'a "b"', 'tsv': ' a "b"'}[form]  # a .csv: blanks around commas
  assert examples.read(own(**OWN), tmp_path, 'train') == [
    Example((text, 'c'), (), 0),
    Example(('d', ''), (), 1),
  ]


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
