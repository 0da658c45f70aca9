"""The table of tasks and the tasks users describe."""

import pytest

from gpt1_jax import config
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import definition, table
from tests.support.refusals import assert_refused


def test_every_row_of_the_table_is_sound():
  for name, task in table.TASKS.items():
    assert task.name == name
    assert task.kind in definition.KINDS
    allowed = (
      definition.VALUE_METRICS if task.regression else definition.CLASS_METRICS
    )
    assert set(task.metrics) <= set(allowed)
    assert {'train', 'dev'} <= set(task.files)
    assert task.folders
    hash(task)


@pytest.mark.parametrize(
  ('name', 'kind', 'outputs', 'metric'),
  [  # docs/reference.md §4
    ('snli', 'entailment', 3, 'accuracy'),
    ('mnli', 'entailment', 3, 'accuracy'),
    ('qnli', 'entailment', 2, 'accuracy'),
    ('rte', 'entailment', 2, 'accuracy'),
    ('scitail', 'entailment', 2, 'accuracy'),
    ('mrpc', 'similarity', 2, 'f1'),
    ('qqp', 'similarity', 2, 'f1'),
    ('stsb', 'similarity', 1, 'pearson'),
    ('sst2', 'classification', 2, 'accuracy'),
    ('cola', 'classification', 2, 'matthews'),
  ],
)
def test_table_agrees_with_the_paper(name, kind, outputs, metric):
  task = table.resolve(name)
  assert (task.kind, task.num_outputs, task.metrics[0]) == (
    kind,
    outputs,
    metric,
  )


def test_mnli_has_two_dev_sets_matched_first():
  assert table.TASKS['mnli'].dev_splits == ('dev', 'dev_mismatched')
  assert table.TASKS['rte'].dev_splits == ('dev',)


def own(**fields):
  return table.resolve(config.parse(OwnTask, fields))


def test_own_task_fills_in_defaults():
  task = own(kind='similarity', labels=(0, 1), metrics=('f1',))
  assert task.name == 'own'
  assert task.labels == ('0', '1')
  assert task.texts == ('text', 'text_pair')
  assert task.files['dev'] == ('dev.jsonl', 'dev.csv', 'dev.tsv')
  assert own(kind='choice', files={'dev': 'a'}).files == {'dev': ('a',)}


def test_own_regression_and_choice():
  value = own(kind='similarity')
  assert value.regression
  assert value.num_outputs == 1
  assert value.metrics == ('pearson', 'spearman')
  choice = own(kind='choice')
  assert not choice.regression
  assert choice.num_outputs == 1
  assert choice.metrics == ('accuracy',)
  assert choice.texts == ('text',)


@pytest.mark.parametrize(
  ('task', 'what'),
  [
    (None, 'config.task is not set'),
    ('rti', "no task 'rti': choose one of cola, sst2"),
    ({'kind': 'entailment', 'labels': ('a',)}, 'two or more'),
    ({'kind': 'entailment', 'labels': ('a', 'a')}, 'two or more'),
    ({'kind': 'entailment', 'labels': (1, 1.0)}, 'two or more'),
    ({'kind': 'entailment', 'labels': (None, 'a')}, 'labels[0] is not set'),
    ({'kind': 'entailment', 'labels': 'ab'}, "labels is 'ab': must be a list"),
    ({'kind': 'entailment', 'texts': 1}, 'texts is 1: must be a list of val'),
    ({'kind': 'entailment', 'label': []}, 'label is []: must be a string'),
    ({'kind': 'entailment', 'files': {'dev': 1}}, 'files is 1: must be a list'),
    ({'kind': 'entailment', 'bounds': (5, 1)}, 'bounds is (5.0, 1.0): the fir'),
    ({'kind': 'entailment', 'metrics': ('accuracy',)}, "'accuracy' does not"),
    ({'kind': 'choice', 'metrics': ('f1',)}, "'f1' does not fit"),
    ({'kind': 'choice', 'metrics': ()}, "'none' does not fit"),
    (
      {'kind': 'entailment', 'labels': ('a', 'b', 'c'), 'metrics': ('f1',)},
      "'f1' does not fit",
    ),
    (
      {'kind': 'entailment', 'texts': ('text',)},
      'config.task.texts has 1 columns; entailment takes 2',
    ),
  ],
)
def test_mistakes_in_a_config_name_the_key(task, what):
  with assert_refused(what):
    own(**task) if isinstance(task, dict) else table.resolve(task)
