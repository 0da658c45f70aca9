"""Tests the zero-shot suite of evaluate: its command, rows and errors."""

import json
import pathlib
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import sklearn.metrics

from gpt1_jax import storage
from gpt1_jax.tasks.zero_shot import (
  decisions,
  evaluation,
  likelihood,
  questions as questions_lib,
  results,
)
from gpt1_jax.train import checkpoint, losses, run as run_lib
from tests.support import commands, winograd_files, zero_shot_runs
from tests.support.refusals import assert_refused
from tests.support.zero_shot_runs import STEPS, questions_of


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return zero_shot_runs.write_run(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return zero_shot_runs.write_tasks(tmp_path_factory.mktemp('tasks'))


def check_answers(workdir, row):
  """The score of a row again, from its file of answers and by scikit-learn."""
  path = workdir / 'zero_shot' / f'{row["task"]}-{row["step"]}.tsv'
  header, *lines = (line.split('\t') for line in path.read_text().splitlines())
  assert header == ['index', 'label', 'prediction', 'scores']
  assert [int(line[0]) for line in lines] == list(range(row['examples']))
  labels, guesses = ([int(line[i]) for line in lines] for i in (1, 2))
  compared = [[float(x) for x in line[3].split()] for line in lines]
  if row['task'] == 'cola':
    assert {threshold for _, threshold in compared} == {row['threshold']}
    assert guesses == [int(mean >= bound) for mean, bound in compared]
    found = sklearn.metrics.matthews_corrcoef(labels, guesses)
  else:
    assert guesses == [values.index(max(values)) for values in compared]
    found = sklearn.metrics.accuracy_score(labels, guesses)
  assert row['score'] == pytest.approx(found, abs=1e-12)


NAMES = sorted(questions_lib.TASKS)


def copied(run, tmp_path):
  return pathlib.Path(shutil.copytree(run, tmp_path / 'run'))


@pytest.mark.slow
def test_the_command(run, folder, tmp_path):
  workdir = copied(run, tmp_path)
  base = (
    f'--workdir={workdir}',
    '--suite=zero_shot',
    f'--tasks_path={folder}',
    '--batch_size=8',
  )
  printed = commands.succeed('evaluate', *base, '--series')
  found = results.read_rows(workdir)
  assert [(row['step'], row['task']) for row in found] == [
    (step, name) for step in STEPS for name in NAMES
  ]
  assert sorted(printed.splitlines()) == sorted(map(json.dumps, found))
  for row in found:
    check_answers(workdir, row)
    assert row['tokens_seen'] == row['step'] * 5 * 48
    task = questions_lib.TASKS[row['task']]
    assert row['metric'] == task.metric
    if row['task'] == 'wsc273':
      assert row['normalised'] is row['reference'] is None
    else:
      span = row['reference'] - row['chance']
      assert row['normalised'] * span + row['chance'] == pytest.approx(
        row['score']
      )
  # The threshold again, from the answers to the training set.
  table = (workdir / 'zero_shot' / 'cola_train-3.tsv').read_text()
  cells = [line.split('\t') for line in table.splitlines()[1:]]
  means = np.array([float(cell[3].split()[0]) for cell in cells])
  labels = np.array([int(cell[1]) for cell in cells])
  (cola,) = (r for r in found if (r['step'], r['task']) == (3, 'cola'))
  assert decisions.choose_threshold(means, labels) == cola['threshold']
  # Another run with one task and one checkpoint: the other rows stay.
  (workdir / 'zero_shot.jsonl').write_text(
    ''.join(json.dumps({**row, 'score': 9.0}) + '\n' for row in reversed(found))
  )
  commands.succeed('evaluate', *base, '--tasks=sst2,dprd', '--checkpoint=3')
  again = results.read_rows(workdir)
  assert [(r['step'], r['task']) for r in again] == [
    (r['step'], r['task']) for r in found
  ]
  for old, new in zip(found, again, strict=True):
    fresh = new['step'] == 3 and new['task'] in ('sst2', 'dprd')
    assert new == (old if fresh else {**old, 'score': 9.0})
  root = ElementTree.parse(workdir / 'zero_shot.svg').getroot()
  assert root.tag == '{http://www.w3.org/2000/svg}svg'
  assert not list(workdir.rglob('*.tmp'))


def test_a_series_is_compiled_once(run, folder, tmp_path, monkeypatch):
  workdir = copied(run, tmp_path)
  traced = []
  whole = losses.token_log_probs

  def counted(h_BTD, *args):
    traced.append(h_BTD.shape)
    return whole(h_BTD, *args)

  monkeypatch.setattr(losses, 'token_log_probs', counted)
  opened = []
  read = checkpoint.read
  monkeypatch.setattr(
    checkpoint, 'read', lambda *a: opened.append(a[1]) or read(*a)
  )
  evaluation.evaluate(str(workdir), str(folder), [], STEPS, 1)
  assert sorted(opened) == sorted(STEPS)
  assert len(traced) == len(set(traced)) <= len(likelihood.WIDTHS)


def test_a_run_that_was_not_pretrained_here(run, tmp_path):
  workdir = copied(run, tmp_path)
  facts = run_lib.load(str(workdir))
  facts |= {'command': 'convert', 'config': {}}
  storage.write_json(workdir / 'config.json', facts)
  assert evaluation.tokens_seen(str(workdir), 3) is None


def test_missing_tasks_are_named(run, folder, tmp_path, capsys):
  base = tmp_path / 'tasks'
  base.mkdir()
  (base / 'SST-2').symlink_to(folder / 'SST-2')
  (base / 'RACE').mkdir()
  for split in ('dev', 'test'):
    winograd_files.write(base, f'RACE/{split}/x', '')
    (base / 'RACE' / split / 'high').symlink_to(folder / f'RACE/{split}/high')
  questions = questions_of(run, base)
  assert [part.task for part in questions] == ['sst2', 'race_high']
  said = capsys.readouterr().err.splitlines()
  lines = [line for line in said if line.startswith('not run: ')]
  assert len(lines) == len(set(lines)) == 5
  for name in ('cola', 'race_middle', 'story_cloze', 'dprd', 'wsc273'):
    assert any(f'of task {name}: looked for' in line for line in lines)
  with assert_refused('no dev file of task race_middle'):
    questions_of(run, base, ['race'])
  assert [p.task for p in questions_of(run, folder, ['race', 'race_high'])] == [
    'race_middle',
    'race_high',
  ]


@pytest.mark.slow
def test_errors_are_one_line(run, folder):
  words = (f'--workdir={run}', '--suite=zero_shot')
  path = f'--tasks_path={folder}'
  for args, expected in (
    (words, '--suite=zero_shot requires --tasks_path'),
    (
      (*words, path, '--series', '--checkpoint=3'),
      'remove --checkpoint',
    ),
    ((*words, path, '--data=x'), '--data requires --suite=perplexity'),
    ((f'--workdir={run}', path), '--tasks_path requires --suite=zero_shot'),
  ):
    assert expected in commands.fail('evaluate', *args)


@pytest.mark.parametrize(
  ('change', 'names', 'expected'),
  [
    (
      None,
      ['squad'],
      "--tasks: unknown zero-shot task 'squad'; choose",
    ),
    (None, ['snli'], "unknown zero-shot task 'snli'"),
    ('nowhere', [], 'nowhere: no such file or folder; set --tasks_path'),
    ('empty', [], 'no zero-shot task found here; set --tasks_path'),
    ('empty', ['cola'], 'no train file of task cola: looked for'),
    ('damaged', [], "label '7' in column 'label'"),
    ('file.txt', [], 'neither a folder nor a zip or tar; set --tasks_path'),
  ],
)
def test_errors(run, folder, tmp_path, change, names, expected):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'file.txt').write_text('x')
  bad = 'sentence\tlabel\ngood\t7\n'
  winograd_files.write(tmp_path / 'damaged', 'SST-2/dev.tsv', bad)
  path = tmp_path / change if change else folder
  with assert_refused(expected):
    questions_of(run, path, names)
