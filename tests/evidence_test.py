"""launch/evidence.sh: its command lines, and its usage."""

import hashlib
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


def test_the_first_page_shows_the_medians_of_the_files():
  text = (commands.ROOT / 'README.md').read_text(encoding='utf-8')
  rows = {
    re.split('[,|]', line)[1].strip(): line.split('|')[2:5]
    for line in text.splitlines()
    if line.startswith('| ')
  }
  shown = json.loads((RESULTS / 'lstm' / 'scores.json').read_text())
  assert rows['LSTM'][0].startswith(f' {shown["eval_perplexity"]:.1f}; ')
  (path,) = RESULTS.glob('tasks/cola_10_epochs_no_aux_f32/*/scores.json')
  score = json.loads(path.read_text())['score']
  assert rows['CoLA without auxiliary LM'][0].strip() == f'{score:.3f}'
  folders = {
    'CoLA': 'cola_10_epochs',
    'SST-2': 'sst2',
    'STS-B': 'stsb',
    'RTE': 'rte',
    'SNLI': 'snli',
    'MultiNLI': 'mnli',
  }
  for task, name in folders.items():
    ours, scratch = (
      [
        json.loads(path.read_text())
        for path in (RESULTS / 'tasks' / f'{name}{start}_f32').rglob(
          'scores.json'
        )
      ]
      for start in ('', '_scratch')
    )
    medians = [
      statistics.median(run['score'] for run in runs)
      for runs in (ours, scratch)
    ]
    metric = ours[0]['metric']
    best = max(found[metric] for found in ours[0]['baselines'].values())
    shown = [
      f'{100 * score:.1f}%' if metric == 'accuracy' else f'{score:.3f}'
      for score in (*medians, best)
    ]
    assert [cell.strip() for cell in rows[task]] == shown, task


@pytest.mark.parametrize('args', [(), ('tasks',), ('corpus', 'books')])
def test_missing_arguments_are_refused(args):
  done = subprocess.run(
    [SCRIPT, *args], capture_output=True, text=True, check=False
  )
  assert done.returncode
  assert 'missing' in done.stderr or 'launch/evidence.sh' in done.stderr
