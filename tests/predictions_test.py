"""Predictions, their scores, and the files of the GLUE server."""

import json

import numpy as np
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import examples, features, predictions, table
from gpt1_jax.tasks.readers import sources
from tests.support.prediction_files import read_table, recomputed
from tests.support.toy_tokenizers import WordTokenizer

# File of the GLUE server -> its labels in the order of the head's outputs.
NLI = ('entailment', 'neutral', 'contradiction')
RTE = ('entailment', 'not_entailment')
SERVER = {
  'CoLA.tsv': ('0', '1'),
  'SST-2.tsv': ('0', '1'),
  'MRPC.tsv': ('0', '1'),
  'QQP.tsv': ('0', '1'),
  'STS-B.tsv': None,  # a number from 0 to 5
  'MNLI-m.tsv': NLI,
  'MNLI-mm.tsv': NLI,
  'QNLI.tsv': RTE,
  'RTE.tsv': RTE,
  'WNLI.tsv': ('0', '1'),
  'AX.tsv': NLI,
}


@pytest.mark.parametrize(
  ('name', 'soft'), [*((name, False) for name in table.TASKS), ('stsb', True)]
)
def test_files_of_every_task(archives, tmp_path, name, soft):
  task = table.TASKS[name]
  rng = np.random.default_rng(0)
  submitted = set()
  for split in (*task.dev_splits, *task.test_splits):
    assert sources.has(task, archives, split)
    rows = examples.read(task, archives, split)
    labels = features.build(task, rows, WordTokenizer(), 256).labels
    width = 6 if soft else len(rows[0].choices) or task.num_outputs
    outputs = rng.normal(size=(len(rows), width)).astype(np.float32) * 3
    predictions.write(str(tmp_path), task, split, rows, outputs)
    file = tmp_path / 'predictions' / f'{split}.tsv'
    _, lines = read_table(file)
    assert [[float(x) for x in line[3].split()] for line in lines] == [
      pytest.approx(row, abs=1e-6) for row in outputs.tolist()
    ]
    check_records(tmp_path, task, split, rows, lines)
    if labels is None:
      assert {line[1] for line in lines} == {'-'}
    else:
      found = predictions.score(task, labels, outputs)
      assert found == pytest.approx(recomputed(task, file), abs=1e-6)
      assert [float(line[1]) for line in lines] == [row.label for row in rows]
    if split in task.submission:
      submitted.add(task.submission[split])
      check_submission(tmp_path, task, split, lines)
  assert submitted == set(task.submission.values())


def check_records(folder, task, split, rows, lines):
  """Asserts that the JSON lines have the texts and the names of labels."""
  text = (folder / 'predictions' / f'{split}.jsonl').read_text()
  found = [json.loads(line) for line in text.splitlines()]
  assert len(found) == len(rows)
  for i, (record, row, line) in enumerate(zip(found, rows, lines, strict=True)):
    assert record['index'] == i
    assert tuple(record[column] for column in task.texts) == row.texts
    if task.regression:
      assert record['prediction'] == pytest.approx(float(line[2]), abs=1e-6)
      assert record['label'] == row.label
      continue
    names = list(record['probabilities'])
    assert names == list(task.labels[: len(row.choices) or None])
    assert record['prediction'] == names[int(line[2])]
    known = row.label is not None
    assert record['label'] == (names[row.label] if known else None)
    assert sum(record['probabilities'].values()) == pytest.approx(1)


def check_submission(folder, task, split, lines):
  """Asserts the header, the row numbers, and the spelling of each label."""
  path = folder / 'submission' / task.submission[split]
  header, submitted = read_table(path)
  assert header == ['index', 'prediction']
  assert [line[0] for line in submitted] == [str(i) for i in range(len(lines))]
  assert path.read_text().endswith('\n')
  spellings = SERVER[path.name]
  for (_, word), (_, _, value, _) in zip(submitted, lines, strict=True):
    if spellings:
      assert word == spellings[int(value)]
    else:
      expected = min(max(float(value), 0.0), 5.0)
      assert float(word) == pytest.approx(expected, abs=5.1e-4)


def test_every_hidden_test_set_of_glue_has_its_file():
  files = {f for task in table.TASKS.values() for f in task.submission.values()}
  assert files == set(SERVER)


def test_soft_classes_predict_their_expectation():
  logits = np.log([[0.7, 0.3, 1e-9, 1e-9, 1e-9, 1e-9]]).astype(np.float32)
  found = predictions.predict(table.TASKS['stsb'], logits)
  assert found == pytest.approx([0.3], abs=1e-6)
  assert found.dtype == np.float32
  task = table.resolve(OwnTask(kind='similarity', bounds=(-2.0, 1.0)))
  assert task.whole_numbers == (-2, -1, 0, 1)
  found = predictions.predict(task, np.array([[0.0, 90.0, 0, 0]], np.float32))
  assert found == pytest.approx([-1])


def test_outputs_that_are_not_finite_are_refused():
  outputs = np.array([[np.nan, 0]], np.float32)
  with pytest.raises(UserError, match=r'not finite; try a lower optim\.peak'):
    predictions.score(table.TASKS['rte'], np.array([1]), outputs)
