"""New texts are labelled as the dev set was when the run was scored."""

import csv
import json
import os

import pytest

import gpt1_jax
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import all_tasks, labelling
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example
from tests.support import commands, finetuning
from tests.support.refusals import assert_refused

TEXTS = [
  'the object is good',
  'a bad, "odd" table',
  'a class',
  'no method\nhere',
]


@pytest.fixture(scope='module')
def tuned(pretrained, tmp_path_factory):
  """A run of half an epoch on comma-separated rows with labels true, false."""
  folder = tmp_path_factory.mktemp('own')
  for split, copies in (('train', 8), ('dev', 1)):
    with (folder / f'{split}.csv').open('w', newline='') as file:
      table = csv.writer(file)
      table.writerow(['label', 'text'])
      for i, text in enumerate(TEXTS * copies):
        table.writerow([('False', 'true')[i % 2], text])
  task = {'kind': 'classification', 'labels': [False, True]}
  values = finetuning.configuration(pretrained, 'rte', folder)
  values['task'] = task
  values['train'] |= {'num_steps': 0, 'num_epochs': 0.5, 'seeds': 2}
  config = finetuning.parsed(values)
  workdir = folder / 'run'
  scores = all_tasks.finetune(config, str(workdir), str(folder))
  return workdir, scores


def read_lines(text):
  return [json.loads(line) for line in text.splitlines()]


def test_the_dev_set_is_labelled_as_it_was_scored(tuned, tmp_path):
  workdir, scores = tuned
  best = workdir / f'seed-{scores["best_seed"]}'
  expected = read_lines((best / 'predictions' / 'dev.jsonl').read_text())
  assert [row['text'] for row in expected] == TEXTS
  assert [row['label'] for row in expected] == ['false', 'true'] * 2
  path = tmp_path / 'new.jsonl'
  path.write_text(
    ''.join(
      json.dumps({'id': i, 'text': text, 'label': 'unknown'}) + '\n'
      for i, text in enumerate(TEXTS)
    )
  )
  found = labelling.Labeller(str(workdir), None, 1).label(str(path))
  for i, (row, before) in enumerate(zip(found, expected, strict=True)):
    assert list(row) == ['id', 'text', 'label', 'prediction', 'probabilities']
    assert (row['id'], row['label']) == (i, 'unknown')
    assert row['prediction'] == before['prediction']
    assert row['probabilities'] == pytest.approx(
      before['probabilities'], abs=1e-6
    )
    assert sum(row['probabilities'].values()) == pytest.approx(1)
    assert row['prediction'] == max(
      row['probabilities'], key=row['probabilities'].get
    )


def test_the_python_api_gives_the_same_labels(tuned):
  workdir, scores = tuned
  best = workdir / f'seed-{scores["best_seed"]}'
  expected = read_lines((best / 'predictions' / 'dev.jsonl').read_text())
  run = gpt1_jax.load(best)
  found = run.classify(TEXTS)
  for row, before in zip(found, expected, strict=True):
    assert row['prediction'] == before['prediction']
    assert row['probabilities'] == pytest.approx(
      before['probabilities'], abs=1e-6
    )
  assert run.classify([]) == []
  with pytest.raises(UserError, match='example 1: own takes text'):
    run.classify(['a', ('a', 'b')])
  for wrong in ({'text': 'a'}, b'a', [5], 5):
    with pytest.raises(UserError, match='example 0: own takes text'):
      run.classify([wrong])
  for wrong in ('a', None):
    with pytest.raises(UserError, match='takes a list'):
      run.classify(wrong)


@pytest.mark.slow
def test_the_command(tuned, tmp_path):
  path = tmp_path / 'new.tsv'
  path.write_text('text\nthe object is good\n')
  args = (f'--workdir={tuned[0]}', f'--input={path}')
  (row,) = read_lines(commands.succeed('predict', *args))
  assert row['text'] == TEXTS[0]
  output = tmp_path / 'out' / 'labelled.jsonl'
  assert commands.succeed('predict', *args, f'--output={output}') == ''
  assert read_lines(output.read_text()) == [row]
  odd = tmp_path / 'odd.jsonl'
  odd.write_text('{"text": "", "id": "\\ud800\\u00e9", "x": [NaN, 1e400]}\n')
  args = (args[0], f'--input={odd}')
  commands.succeed('predict', *args, f'--output={output}')
  (line,) = output.read_text().splitlines()
  assert line.startswith('{"text": "", "id": "\\ud800é", "x": [null, null], ')
  line = commands.fail('predict', *args, f'--output={odd}')
  assert line == 'error: --output is --input, which it would replace'


def test_texts_that_do_not_fit_are_reported(tuned, caplog):
  run = labelling.Labeller(str(tuned[0]), None, 1)
  own = [Example(texts=(text,)) for text in (TEXTS[0], 'good ' * 500)]
  run.answer(own[:1])
  assert not caplog.messages
  run.answer(own)
  (message,) = caplog.messages
  assert message.startswith('1 of 2 examples are cut to the context of ')


def test_empty_texts_are_counted(tuned, tmp_path, caplog):
  path = tmp_path / 'new.jsonl'
  path.write_text('{"text": "good"}\n{"text": " "}\n{"text": ""}\n')
  labelling.Labeller(str(tuned[0]), None, 1).label(str(path))
  (message,) = caplog.messages
  assert message == (
    f'{path}: 2 of 3 examples have no text, the first in {path}:2'
  )


def test_answers_without_context_are_not_empty(
  tuned, tmp_path, caplog, monkeypatch
):
  path = tmp_path / 'new.jsonl'
  path.write_text('{"text": "", "choices": ["a", "b"]}\n')
  run = labelling.Labeller(str(tuned[0]), None, 1)
  run.task = Task('own', 'choice')
  monkeypatch.setattr(run, 'answer', lambda examples: [{}] * len(examples))
  run.label(str(path))
  assert not caplog.messages


def test_rows_that_cannot_be_labelled_are_refused(tuned, tmp_path):
  path = tmp_path / 'new.tsv'
  run = labelling.Labeller(str(tuned[0]), None, 1)
  for text, words in (
    (
      'text\nfirst\tsecond\n',
      'new.tsv:2: 1 cells more than columns; the first',
    ),
    ('texts\nfirst\n', "new.tsv:1: no column 'text' in the header: 'texts'"),
    ('text\n', 'new.tsv: no rows'),
  ):
    path.write_text(text)
    with assert_refused(words):
      run.label(str(path))
  path.unlink()
  os.mkfifo(path)
  with assert_refused('new.tsv: not a file'):
    run.label(str(path))
  (tmp_path / 'config.json').write_text('{"command": "pretrain", "config": {}}')
  with assert_refused('a pretrain run has no labels'):
    labelling.Labeller(str(tmp_path), None, 1)
