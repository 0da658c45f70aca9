"""Training says what it is about to do before anything that takes long."""

import re

import pytest

from tests.support import commands, small_runs


@pytest.mark.slow
def test_the_lines_of_a_start_are_in_order(pretrained, tmp_path):
  """With -X importtime, Python prints a line after each import."""
  small_runs.write_task(tmp_path, train=2, dev=2)
  workdir = tmp_path / 'run'
  done = commands.run(
    'finetune',
    '--config=configs/own_task.py:tiny',
    f'--config.init_from={pretrained}',
    f'--config.data.path={tmp_path}',
    '--config.data.lengths=(16,)',
    '--config.train.num_steps=1',
    f'--workdir={workdir}',
    PYTHONPROFILEIMPORTTIME='1',
  )
  assert done.returncode == 0, done.stderr
  assert_in_order(
    done.stderr,
    f'^finetune: my_task from {pretrained}, in {workdir}; loading JAX$',
    r'^import time: .*\| +numpy$',
    r'^import time: .*\| +jax$',
    f'^my_task: reading {tmp_path}$',
    '^my_task: 2 train, 2 dev examples; 1 updates$',
    '^finetune my_task: initialising the weights, which compiles$',
    '^ *devices  ',
    '^finetune my_task 1/1  compiled and applied one update',
    '^finetune my_task 1/1  eval_accuracy',
  )


def test_pretraining_speaks_before_it_loads_jax(tmp_path):
  done = commands.run(
    'pretrain',
    '--config=configs/pretrain.py:tiny',
    f'--config.data.path={tmp_path}/none',
    f'--workdir={tmp_path}/run',
    PYTHONPROFILEIMPORTTIME='1',
  )
  assert done.returncode == 2, done.stderr
  assert_in_order(
    done.stderr,
    f'^pretrain: configs/pretrain.py:tiny, in {tmp_path}/run; loading JAX$',
    r'^import time: .*\| +jax$',
    f'^error: {tmp_path}/none',
  )


@pytest.mark.parametrize(
  ('variables', 'is_first'),
  [
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, True),
    ({'TPU_WORKER_HOSTNAMES': 't-0,t-1'}, False),
    ({'SLURM_STEP_NODELIST': 'node1'}, False),
  ],
)
def test_hosts_of_a_cluster_do_not_repeat_the_first_line(
  tmp_path, variables, is_first
):
  done = commands.run('generate', f'--workdir={tmp_path}/none', **variables)
  assert done.returncode == 2, done.stderr
  assert ('; loading JAX' in done.stderr) is is_first


def assert_in_order(text, *patterns):
  places = [re.search(pattern, text, re.MULTILINE) for pattern in patterns]
  assert all(places), text
  assert places == sorted(places, key=lambda found: found.start())
