"""The table of tasks and the tasks users describe."""

import ml_collections
import pytest

from gpt1_jax import errors
from gpt1_jax.tasks import own_task, table


def test_every_row_of_the_table_is_sound():
  for name, task in table.TASKS.items():
    assert task.name == name
    assert task.kind in own_task.KINDS
    allowed = (
      own_task.VALUE_METRICS if task.regression else own_task.CLASS_METRICS
    )
    assert set(task.metrics) <= set(allowed)
    assert {'train', 'dev'} <= set(task.files)
    assert task.folders
    hash(task)


@pytest.mark.parametrize(
  ('name', 'kind', 'outputs', 'metric'),
  [  # REFERENCE §4
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


def test_own_task_from_a_config():
  config = ml_collections.ConfigDict(
    {'kind': 'similarity', 'labels': (0, 1), 'metrics': ('f1',)}
  )
  task = table.resolve(config)
  assert task.name == 'own'
  assert task.labels == ('0', '1')
  assert task.texts == ('text', 'text_pair')
  assert task.files['dev'] == ('dev.jsonl',)


def test_own_regression_and_choice():
  value = table.resolve({'kind': 'similarity'})
  assert value.regression
  assert value.num_outputs == 1
  assert value.metrics == ('pearson', 'spearman')
  choice = table.resolve({'kind': 'choice'})
  assert not choice.regression
  assert choice.num_outputs == 1
  assert choice.metrics == ('accuracy',)
  assert choice.texts == ('text',)


@pytest.mark.parametrize(
  ('task', 'what'),
  [
    (None, 'config.task is not set'),
    ('rti', "no task 'rti': known are cola, sst2"),
    ({'labels': ('a', 'b')}, 'config.task.kind is None'),
    ({'kind': 'entail'}, "config.task.kind is 'entail'"),
    ({'kind': 'choice', 'lables': ()}, 'config.task.lables: no such field'),
    ({'kind': 'entailment', 'labels': 'ab'}, 'config.task.labels: a tuple'),
    ({'kind': 'entailment', 'labels': ('a',)}, 'two or more'),
    ({'kind': 'entailment', 'labels': ('a', 'a')}, 'two or more'),
    ({'kind': 'entailment', 'metrics': ('accuracy',)}, "'accuracy' does not"),
    ({'kind': 'choice', 'metrics': ('f1',)}, "'f1' does not fit"),
    ({'kind': 'choice', 'metrics': ()}, "'none' does not fit"),
    (
      {'kind': 'entailment', 'labels': ('a', 'b', 'c'), 'metrics': ('f1',)},
      "'f1' does not fit",
    ),
    ({'kind': 'entailment', 'texts': ('text',)}, 'config.task.texts has 1'),
  ],
)
def test_mistakes_in_a_config_name_the_key(task, what):
  with pytest.raises(errors.UserError) as caught:
    table.resolve(task)
  assert what in str(caught.value)
  assert '\n' not in str(caught.value)
