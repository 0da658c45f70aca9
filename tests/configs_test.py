"""Config files load by themselves and agree with the rooms that take them."""

import pathlib
import subprocess
import sys

import pytest

from gpt1_jax.data import tasks

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch):
  monkeypatch.syspath_prepend(ROOT)


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.stem
)
def test_loads_without_the_package(path):
  code = (
    'import runpy, sys; '
    f'runpy.run_path({str(path)!r})["get_config"](); '
    'assert not [m for m in sys.modules if m.startswith(("gpt1_jax", "jax"))]'
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.parametrize('name', tasks.TASKS)
def test_finetune_takes_every_task(name):
  from configs import finetune

  config = finetune.get_config(name)
  assert tasks.resolve(config.task) is tasks.TASKS[name]
  assert name in finetune.__doc__
  tiny = finetune.get_config(f'{name},tiny')
  assert tiny.task == name
  assert (tiny.train.num_epochs, tiny.train.num_steps) == (0, 20)
  assert tiny.keys() == config.keys()


def test_finetune_has_the_values_of_the_paper():
  from configs import finetune

  config = finetune.get_config('rte')  # REFERENCE §2
  assert (config.optim.peak_lr, config.optim.warmup) == (6.25e-5, 0.002)
  assert (config.data.batch_size, config.train.num_epochs) == (32, 3)
  assert (config.head.clf_pdrop, config.head.lm_coef) == (0.1, 0.5)
  assert config.optim.schedule == 'linear'


def test_finetune_wants_one_task_or_all():
  from configs import finetune

  assert finetune.get_config('all').task == 'all'
  assert finetune.get_config('all,tiny').train.num_steps == 20
  assert set(tasks.TWELVE) < set(tasks.TASKS)
  assert len(set(tasks.TWELVE)) == 12
  assert finetune.get_config().task is None
  with pytest.raises(ValueError, match='one task'):
    finetune.get_config('rte,cola')


def test_own_task_is_ten_lines_on_the_same_config():
  from configs import finetune, own_task

  config = own_task.get_config()
  task = tasks.resolve(config.task)
  assert (task.name, task.labels) == ('my_task', ('bad', 'good'))
  assert config.optim == finetune.get_config('rte').optim
  assert own_task.get_config('tiny').train.num_steps == 20
  lines = pathlib.Path(own_task.__file__).read_text().splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('def '))
  assert len(lines) - start <= 10
