"""launch/evidence.sh: its command lines, and its usage."""

import os
import pathlib
import shlex
import subprocess

import pytest

from tests.support import commands

SCRIPT = pathlib.Path(__file__).parents[1] / 'launch' / 'evidence.sh'


def printed(*args: str) -> list[list[str]]:
  """Returns the words of each command that a step runs."""
  done = subprocess.run(
    [SCRIPT, *args],
    env={**os.environ, 'PYTHON': 'echo', 'OUT': 'out', 'SEEDS': '2'},
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


def test_law_runs_three_sizes_on_three_amounts_of_text():
  *runs, report = printed('law')
  assert len({tuple(run) for run in runs}) == 9
  assert '--runs=out/law,models/mini' in report
  shown = commands.succeed('pretrain', *runs[4][2:], '--print_config')
  assert '--config.model.n_embd=64\n' in shown
  assert '--config.train.num_steps=1465\n' in shown


def test_tasks_are_run_pretrained_and_from_scratch():
  ((program, *flags),) = printed('tasks', 'glue')
  assert program == 'launch/sweep.py'
  assert {
    '--ablations=full,scratch',
    '--seeds=2',
    '--data_path=glue',
    '--config.train.num_epochs=6',
  } < {*flags}
  searched = printed('search', 'glue')
  assert len({tuple(command) for command in searched}) == 3 * 2


def test_the_corpus_is_prepared_then_compared_with_the_tasks():
  first, second = printed('corpus', 'books', 'library', 'glue')
  assert {'--input=books', '--input=library', '--merges=8000'} < {*first}
  assert second[2:] == ['--output=out/corpus', '--check_overlap=glue']


@pytest.mark.parametrize('args', [(), ('tasks',), ('corpus', 'books')])
def test_missing_arguments_are_refused(args):
  done = subprocess.run(
    [SCRIPT, *args], capture_output=True, text=True, check=False
  )
  assert done.returncode
  assert 'missing' in done.stderr or 'launch/evidence.sh' in done.stderr
