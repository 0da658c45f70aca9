"""launch/evidence.sh: its command lines, and its usage."""

import hashlib
import itertools
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.support import commands

SCRIPT = pathlib.Path(__file__).parents[1] / 'launch' / 'evidence.sh'
RESULTS = commands.ROOT / 'docs' / 'results'
SHOWN = ('record', 'lstm', 'tasks')  # folders there, in evidence.md


def printed(*args: object, **env: object) -> list[list[str]]:
  """Returns the words of each command that a step runs."""
  settings = {'PYTHON': 'echo', 'OUT': 'out', 'SEEDS': '2', **env}
  done = subprocess.run(
    [SCRIPT, *args],
    env={**os.environ, **{name: str(x) for name, x in settings.items()}},
    capture_output=True,
    text=True,
    check=True,
  )
  return [shlex.split(line) for line in done.stdout.splitlines()]


def test_pretraining_sets_known_settings():
  ((_, program, *flags),) = printed('pretrain')
  assert program == 'gpt1_jax.pretrain'
  shown = commands.succeed('pretrain', *flags, '--print_config')
  assert '--config.data.batch_size=8\n' in shown
  assert '--config.model.attn_pdrop=0.0\n' in shown
  assert '--config.train.num_steps=43917\n' in shown


def test_law_runs_three_sizes_on_four_amounts_of_text():
  *runs, report = printed('law')
  assert len({tuple(run) for run in runs}) == 12
  assert '--runs=out/law,models/mini' in report
  for run in runs:
    flags = dict(word.split('=', 1) for word in run[2:])
    name = pathlib.Path(flags['--workdir']).name
    facts = json.loads((RESULTS / 'law' / name / 'config.json').read_text())
    assert flags['--config.model.dtype'] == facts['config']['model']['dtype']
  shown = commands.succeed('pretrain', *runs[4][2:], '--print_config')
  assert '--config.model.n_embd=64\n' in shown
  assert '--config.train.num_steps=1465\n' in shown


def test_the_lstm_has_the_budget_of_the_record():
  ((_, _, *flags),) = printed('lstm', 'corpus')
  shown = commands.succeed('pretrain', *flags, '--print_config').splitlines()
  facts = json.loads((RESULTS / 'record' / 'config.json').read_text())
  record = facts['config']
  for section, keys in (
    ('train', ('num_steps', 'seed')),
    ('data', ('batch_size', 'seed')),
    ('optim', record['optim']),
  ):
    for key in keys:
      value = record[section][key]
      assert f'--config.{section}.{key}={value}' in shown, key


def test_tasks_are_run_pretrained_and_from_scratch():
  ((program, *flags),) = printed('tasks', 'glue', '--config.train.num_epochs=1')
  assert program == 'launch/sweep.py'
  assert {
    '--ablations=full,scratch',
    '--seeds=2',
    '--data_path=glue',
    '--init_from=models/mini',
    '--config=configs/finetune.py:mini',
    '--config.train.num_epochs=1',
  } < {*flags}
  searched = printed('search', 'glue')
  assert len({tuple(command) for command in searched}) == 3 * 2


def test_the_corpus_is_prepared_then_compared_with_the_tasks():
  first, second = printed('corpus', 'books', 'library', 'glue')
  assert {'--input=books', '--input=library', '--merges=8000'} < {*first}
  assert second[2:] == ['--output=out/corpus', '--check_overlap=glue']


def test_pairs_are_split_by_their_hash(tmp_path):
  rows = [f'neutral\ta "man" {i}\tone sleeps\n' for i in range(40)]
  (tmp_path / 'one.tsv').write_text(''.join(rows[:30]))
  (tmp_path / 'two.tsv').write_text(''.join(rows[30:]))
  python = tmp_path / 'python'  # runs what is on stdin, prints the rest
  python.write_text(
    f'#!/usr/bin/env bash\n[ "$1" = - ] && exec {sys.executable} "$@"\n'
    'printf "%q " "$@"; echo\n'
  )
  python.chmod(0o755)
  files = (tmp_path / 'one.tsv', tmp_path / 'two.tsv')
  tuned, scratch = printed('pairs', 'snli', *files, PYTHON=python, OUT=tmp_path)
  assert '--config.init_from=models/mini' in tuned
  assert '--config=configs/own_task.py:mini,scratch' in scratch
  assert '--config.like=models/mini' in scratch
  found = {
    split: (tmp_path / 'pairs' / 'snli' / f'{split}.jsonl').read_text()
    for split in ('train', 'dev')
  }
  lines = [
    json.loads(line) for text in found.values() for line in text.splitlines()
  ]
  assert len(lines) == 40
  for split, text in found.items():
    for row in map(json.loads, text.splitlines()):
      texts = f'{row["text"]}\t{row["text_pair"]}'
      assert f'{row["label"]}\t{texts}\n' in rows
      number = int(hashlib.sha256(texts.encode()).hexdigest(), 16)
      assert (number % 5 == 0) == (split == 'dev')
  flags = [word for word in tuned[2:] if word.startswith('--config')]
  shown = commands.succeed('finetune', *flags, '--print_config')
  assert '--config.task.kind=entailment\n' in shown
  kept = RESULTS / 'tasks' / 'snli_f32' / 'seed-0' / 'config.json'
  epochs = json.loads(kept.read_text())['config']['train']['num_epochs']
  assert float(shown.partition('.num_epochs=')[2].split()[0]) == epochs


@pytest.mark.slow
def test_the_tables_of_the_docs_are_those_of_their_files(tmp_path):
  runs = ['models/mini', *(f'docs/results/{x}' for x in SHOWN)]
  commands.succeed(
    'report',
    f'--runs={",".join(runs)}',
    f'--output={tmp_path}/tables',
  )
  folders = (tmp_path / 'tables', RESULTS)
  made, shown = (
    (folder / name).read_text().splitlines()
    for folder, name in zip(folders, ('results.md', 'evidence.md'), strict=True)
  )
  assert made[:-1] == shown[:-1]  # the last line names the commit
  made, shown = (
    [''.join(x.itertext()) for x in ET.parse(folder / 'tasks.svg').iter()]
    for folder in folders
  )
  assert made == shown


TASKS = {  # a task's name on both pages -> its folders
  'CoLA': 'cola_10_epochs',
  'SST-2': 'sst2',
  'STS-B': 'stsb',
  'RTE': 'rte',
  'SNLI': 'snli',
  'MNLI': 'mnli',
}


def seeds(name, start=''):
  """Returns the folder of each seed, 'start' being '' or '_scratch'."""
  found = (RESULTS / 'tasks' / f'{name}{start}_f32').rglob('scores.json')
  return sorted(path.parent for path in found)


def read(folder):
  return json.loads((folder / 'scores.json').read_text())


def best_epoch(folder):
  return read(folder)['score']


def last_epoch(folder):
  name = f'eval_{read(folder)["metric"]}'
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  return [row[name] for row in map(json.loads, lines) if name in row][-1]


def rows_below(text, header):
  """Returns the cells of a table's rows by the first word of each."""
  lines = text.partition(f'\n| {header} |')[2].splitlines()[2:]
  rows = itertools.takewhile(lambda line: line.startswith('|'), lines)
  cells = [[x.strip(' *') for x in row.split('|')[1:-1]] for row in rows]
  return {re.split(r'[, ]', row[0])[0]: row for row in reversed(cells)}


def test_the_first_page_shows_the_medians_of_the_files():
  text = (commands.ROOT / 'README.md').read_text(encoding='utf-8')
  scores = read(RESULTS / 'lstm')
  assert f'perplexity {scores["eval_perplexity"]:.1f}, the decoder' in text
  (folder,) = seeds('cola_10_epochs', '_no_aux')
  score = f'{best_epoch(folder):.3f}'
  assert f'\n| CoLA without auxiliary LM | {score} |' in text
  rows = rows_below(text.replace('MultiNLI', 'MNLI'), 'measure')
  for task, name in TASKS.items():
    folders = [seeds(name), seeds(name, '_scratch')]
    metric = read(folders[0][0])['metric']
    simple = read(folders[0][0])['baselines'].values()
    medians = [statistics.median(map(best_epoch, each)) for each in folders]
    shown = [
      f'{100 * score:.1f}%' if metric == 'accuracy' else f'{score:.3f}'
      for score in (*medians, max(found[metric] for found in simple))
    ]
    assert rows[task][1:4] == shown, task


@pytest.mark.parametrize(
  ('header', 'column', 'score'),
  [
    ('task | dev examples', 3, best_epoch),
    ('task, last epoch', 1, last_epoch),
  ],
)
def test_the_page_of_results_shows_the_seeds_of_the_files(
  header, column, score
):
  rows = rows_below((RESULTS / 'README.md').read_text('utf-8'), header)
  for task, name in TASKS.items():
    for place, start in ((column, ''), (column + 1, '_scratch')):
      values = [100 * score(folder) for folder in seeds(name, start)]
      shown = f'{statistics.median(values):.1f}'
      if len(values) > 1:
        shown += f' [{min(values):.1f}, {max(values):.1f}]'
      assert rows[task][place].replace('*', '') == shown, task


@pytest.mark.parametrize('args', [(), ('tasks',), ('corpus', 'books')])
def test_missing_arguments_are_refused(args):
  done = subprocess.run(
    [SCRIPT, *args], capture_output=True, text=True, check=False
  )
  assert done.returncode
  assert 'missing' in done.stderr or 'launch/evidence.sh' in done.stderr
