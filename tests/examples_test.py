"""Tests that the rows of every format become examples."""

import zipfile

import pytest

from gpt1_jax.tasks import examples, table
from gpt1_jax.tasks.examples import Example
from gpt1_jax.tasks.readers import sources
from tests.support.task_files import jsonl, own, write


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
  task = own(kind='entailment', labels=('no', 'yes'))
  assert examples.read(task, tmp_path, 'train') == [
    Example((text, 'c'), (), 0),
    Example(('d', ''), (), 1),
  ]
