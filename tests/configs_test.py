"""Config files load by themselves and agree with the rooms that take them."""

import pathlib
import subprocess
import sys

import pytest

from gpt1_jax.config import OwnTask
from gpt1_jax.model import models
from gpt1_jax.tasks import table

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


@pytest.mark.parametrize('name', table.TASKS)
def test_finetune_takes_every_task(name):
  from configs import finetune

  config = finetune.get_config(name)
  assert table.resolve(config.task) is table.TASKS[name]
  assert name in finetune.__doc__
  tiny = finetune.get_config(f'{name},tiny')
  assert tiny.task == name
  assert (tiny.train.num_epochs, tiny.train.num_steps) == (0, 20)
  assert tiny.keys() == config.keys()


def test_finetune_has_the_values_of_the_paper():
  from configs import finetune, pretrain

  config = finetune.get_config('rte')  # docs/reference.md §2
  assert (config.optim.peak_lr, config.optim.warmup) == (6.25e-5, 0.002)
  assert (config.data.batch_size, config.train.num_epochs) == (32, 3)
  assert (config.head.clf_pdrop, config.head.lm_coef) == (0.1, 0.5)
  assert config.optim.schedule == 'linear'
  model, pretraining = config.model, pretrain.get_config().model
  for rate in ('embd_pdrop', 'attn_pdrop', 'resid_pdrop'):
    assert model[rate] == pretraining[rate] == 0.1


def flat(config):
  return {
    f'{section}.{key}': value
    for section, values in config.to_dict().items()
    for key, value in (values.items() if isinstance(values, dict) else [])
  }


def differences(a, b):
  a, b = flat(a), flat(b)
  assert a.keys() == b.keys()
  return {key: (a[key], b[key]) for key in a if a[key] != b[key]}


def test_where_paper_and_openai_differ():
  """Lists every difference; optim_test.py covers `variant`."""
  from configs import finetune, pretrain

  both = {
    'model.embedding_dropout': ('sum', 'matrix'),
    'model.softmax_rows': ('tokens', 'all'),
    'optim.variant': ('paper', 'openai'),
  }
  assert (
    differences(pretrain.get_config('paper'), pretrain.get_config('openai'))
    == both
  )
  assert differences(
    finetune.get_config('rte'), finetune.get_config('rte,openai')
  ) == {
    **both,
    'head.lm_reduction': ('tokens', 'sequences'),
    'data.truncation': ('room', 'halves'),
    'data.drop_last': (False, True),
  }
  assert differences(
    finetune.get_config('rte,openai,tiny'), finetune.get_config('rte,openai')
  ).keys() == {
    'train.num_epochs',
    'train.num_steps',
    'train.log_every',
    'data.batch_size',
  }


def test_the_rows_of_table_5_are_words():
  """P Table 5: no pretraining, no auxiliary LM, LSTM; words combine."""
  from configs import finetune

  full = finetune.get_config('cola')
  assert (full.init_from, full.transfer.layers) == (None, -1)

  def changed(words):
    config = finetune.get_config(f'cola,{words}')
    assert config.task == 'cola'
    out = differences(full, config)
    return out | ({'init_from': 'none'} if config.init_from else {})

  no_aux = {'head.lm_coef': (0.5, 0.0)}
  assert changed('scratch') == {'init_from': 'none'}
  assert changed('no_aux') == no_aux
  assert changed('no_aux,scratch') == {**no_aux, 'init_from': 'none'}
  tiny = finetune.get_config('cola,no_aux,tiny')
  assert differences(finetune.get_config('cola,tiny'), tiny) == no_aux
  lstm = finetune.get_config('cola,lstm').to_dict()
  assert lstm.pop('model') == {
    'kind': 'lstm',
    'embd_pdrop': 0.1,
    'output_pdrop': 0.1,
    'dtype': 'float32',
  }
  gpt = full.to_dict()
  assert gpt.pop('model')['kind'] == 'gpt'
  assert lstm == gpt
  with pytest.raises(ValueError, match='no LSTM'):
    finetune.get_config('cola,lstm,openai')


def test_the_lstm_of_the_paper_is_pretrained_as_the_gpt():
  from configs import pretrain

  for preset, sizes in (
    ('paper', (2048, 768, 512)),
    ('mini', (1024, 384, 256)),
    ('tiny', (256, 128, 64)),
  ):
    gpt = pretrain.get_config(preset).to_dict()
    config = pretrain.get_config(f'lstm,{preset}').to_dict()
    model = config.pop('model')
    assert gpt.pop('model')['kind'] == 'gpt'
    assert config == gpt
    config = models.config_class(model['kind'])(
      **model, vocab_size=9, n_special=0
    )
    assert (config.units, config.n_embd, config.n_ctx) == sizes
    assert config.embd_pdrop == config.output_pdrop == 0.1
  assert pretrain.get_config('lstm') == pretrain.get_config('lstm,paper')
  with pytest.raises(ValueError, match='no LSTM'):
    pretrain.get_config('lstm,openai')
  with pytest.raises(ValueError, match='no preset'):
    pretrain.get_config('lstm,large')


def test_pretrain_has_the_values_of_the_paper():
  from configs import pretrain

  config = pretrain.get_config()  # docs/reference.md §1
  assert config == pretrain.get_config('paper')
  model, optim = config.model, config.optim
  assert (model.n_layer, model.n_embd, model.n_head) == (12, 768, 12)
  assert model.n_ctx == 512
  assert {model.embd_pdrop, model.attn_pdrop, model.resid_pdrop} == {0.1}
  assert (optim.b1, optim.b2, optim.eps) == (0.9, 0.999, 1e-8)
  assert (optim.peak_lr, optim.warmup) == (2.5e-4, 2000)
  assert (optim.schedule, optim.weight_decay) == ('cosine', 0.01)
  assert optim.clip_norm == 1
  assert (config.data.batch_size, config.train.num_epochs) == (64, 100)


def test_finetune_wants_one_task_or_all():
  from configs import finetune

  assert finetune.get_config('all').task == 'all'
  assert finetune.get_config('all,tiny').train.num_steps == 20
  assert set(table.TWELVE) < set(table.TASKS)
  assert len(set(table.TWELVE)) == 12
  assert finetune.get_config().task is None
  with pytest.raises(ValueError, match='one task'):
    finetune.get_config('rte,cola')


def test_own_task_is_ten_lines_on_the_same_config():
  from configs import finetune, own_task

  config = own_task.get_config()
  task = table.resolve(OwnTask(**config.task))
  assert (task.name, task.labels) == ('my_task', ('bad', 'good'))
  assert config.optim == finetune.get_config('rte').optim
  assert own_task.get_config('tiny').train.num_steps == 20
  lines = pathlib.Path(own_task.__file__).read_text().splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('def '))
  assert len(lines) - start <= 10
