"""Config files load by themselves and agree with the code that reads them."""

import pathlib
import subprocess
import sys

import pytest

from configs import finetune, own_task, pretrain
from gpt1_jax import config as config_lib
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import table

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_files_load_without_the_package():
  files = sorted(map(str, (ROOT / 'configs').glob('*.py')))
  assert len(files) >= 4
  code = (
    'import runpy, sys\n'
    'for path in sys.argv[1:]: runpy.run_path(path)["get_config"]()\n'
    'assert not [m for m in sys.modules if m.startswith(("gpt1_jax", "jax"))]'
  )
  subprocess.run([sys.executable, '-c', code, *files], check=True, cwd=ROOT)


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


def test_pretrain_has_the_values_of_the_paper():
  """The values are those of docs/reference.md §1."""
  config = pretrain.get_config()
  assert config == pretrain.get_config('paper')
  values = flat(config)
  expected = {
    'n_layer': 12, 'n_embd': 768, 'n_head': 12, 'n_ctx': 512,
    'embd_pdrop': 0.1, 'attn_pdrop': 0.1, 'resid_pdrop': 0.1,
  }  # fmt: skip
  assert expected == {key: values[f'model.{key}'] for key in expected}
  expected = {
    'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'peak_lr': 2.5e-4, 'warmup': 2000,
    'schedule': 'cosine', 'weight_decay': 0.01, 'clip_norm': 1,
  }  # fmt: skip
  assert expected == {key: values[f'optim.{key}'] for key in expected}
  assert (values['data.batch_size'], values['train.num_epochs']) == (64, 100)
  assert config.init_from == 'none'
  starts = {
    word: pretrain.get_config(word).init_from
    for word in (*pretrain.PRESETS, 'lstm,mini', 'lstm,tiny', 'lstm,demo')
  }
  for preset in ('tiny', 'demo', 'record'):
    assert starts.pop(preset) == 'neighbours'
  assert set(starts.values()) == {'none'}


def test_finetune_has_the_values_of_the_paper():
  """The values are those of docs/reference.md §2."""
  config = finetune.get_config('rte')
  assert (config.optim.peak_lr, config.optim.warmup) == (6.25e-5, 0.002)
  assert (config.data.batch_size, config.train.num_epochs) == (32, 3)
  assert (config.head.clf_pdrop, config.head.lm_coef) == (0.1, 0.5)
  assert config.optim.schedule == 'linear'
  for rate in ('embd_pdrop', 'attn_pdrop', 'resid_pdrop'):
    assert config.model[rate] == pretrain.get_config().model[rate] == 0.1


def test_where_paper_and_openai_differ():
  """Lists every difference; optim_test covers `variant`."""
  both = {
    'model.embedding_dropout': ('sum', 'matrix'),
    'model.softmax_rows': ('tokens', 'all'),
    'optim.variant': ('paper', 'openai'),
  }
  paper, openai = map(pretrain.get_config, ('paper', 'openai'))
  assert differences(paper, openai) == both
  paper, openai, tiny = map(
    finetune.get_config, ('rte', 'rte,openai', 'rte,openai,tiny')
  )
  assert differences(paper, openai) == {
    **both,
    'head.lm_reduction': ('tokens', 'sequences'),
    'data.truncation': ('room', 'halves'),
    'data.drop_last': (False, True),
  }
  train = {f'train.{key}' for key in ('num_epochs', 'num_steps', 'log_every')}
  assert differences(tiny, openai).keys() == {*train, 'data.batch_size'}


@pytest.mark.parametrize('name', table.TASKS)
def test_finetune_takes_every_task(name):
  config = finetune.get_config(name)
  assert table.resolve(config.task) is table.TASKS[name]
  assert name in finetune.__doc__
  tiny = finetune.get_config(f'{name},tiny')
  assert tiny.task == name
  assert (tiny.train.num_epochs, tiny.train.num_steps) == (0, 20)
  assert tiny.keys() == config.keys()


def test_finetune_wants_one_task_or_all():
  assert finetune.get_config('all').task == 'all'
  assert finetune.get_config('all,tiny').train.num_steps == 20
  assert set(table.TWELVE) < set(table.TASKS)
  assert len(set(table.TWELVE)) == 12
  assert finetune.get_config().task is None
  with pytest.raises(ValueError, match='one task'):
    finetune.get_config('rte,cola')


def test_scratch_and_a_pretrained_run_exclude_each_other():
  values = finetune.get_config('cola,scratch').to_dict()
  values['data']['path'] = 'glue/CoLA'
  values['init_from'] = 'runs/mini'
  with pytest.raises(UserError, match=r'config\.like is not set'):
    config_lib.parse(config_lib.FinetuneConfig, values)
  with pytest.raises(UserError, match='only like to train from scratch'):
    config_lib.parse(config_lib.FinetuneConfig, values | {'like': 'runs/mini'})
  values |= {'init_from': 'none', 'like': 'runs/mini'}
  assert config_lib.parse(config_lib.FinetuneConfig, values).like == 'runs/mini'


def test_small_models_have_a_word():
  small = {
    'optim.peak_lr': (6.25e-5, 5e-4),
    'train.num_epochs': (3, 10),
  }
  configs = map(finetune.get_config, ('cola', 'cola,mini'))
  assert differences(*configs) == small
  own = differences(own_task.get_config(), own_task.get_config('mini'))
  assert own == small
  scratch = map(finetune.get_config, ('cola,scratch', 'cola,mini,scratch'))
  assert differences(*scratch) == small


def test_the_rows_of_table_5_are_words():
  """Covers P Table 5: no pretraining, no auxiliary LM, LSTM; words combine."""
  full = finetune.get_config('cola')
  assert (full.init_from, full.transfer.layers) == (None, -1)
  no_aux = {'head.lm_coef': (0.5, 0.0)}
  for words, init_from, expected in (
    ('scratch', 'none', {}),
    ('no_aux', None, no_aux),
    ('no_aux,scratch', 'none', no_aux),
  ):
    config = finetune.get_config(f'cola,{words}')
    assert (config.task, config.init_from) == ('cola', init_from)
    assert differences(full, config) == expected
  tiny = map(finetune.get_config, ('cola,tiny', 'cola,no_aux,tiny'))
  assert differences(*tiny) == no_aux
  lstm, gpt = finetune.get_config('cola,lstm').to_dict(), full.to_dict()
  rates = {'embd_pdrop': 0.1, 'output_pdrop': 0.1}
  assert lstm.pop('model') == {'kind': 'lstm', 'dtype': 'float32', **rates}
  assert gpt.pop('model')['kind'] == 'gpt'
  assert lstm == gpt
  with pytest.raises(ValueError, match='no LSTM'):
    finetune.get_config('cola,lstm,openai')


@pytest.mark.parametrize(
  ('preset', 'sizes'),
  [
    ('paper', (2048, 768, 512)),
    ('mini', (1024, 384, 256)),
    ('tiny', (256, 128, 64)),
  ],
)
def test_the_lstm_is_pretrained_as_the_gpt(preset, sizes):
  gpt = pretrain.get_config(preset).to_dict()
  lstm = pretrain.get_config(f'lstm,{preset}').to_dict()
  model = lstm.pop('model')
  assert gpt.pop('model')['kind'] == 'gpt'
  assert lstm.pop('init_from') == 'none'
  del gpt['init_from']
  assert lstm == gpt
  kind = models.config_class(model['kind'])
  config = kind(**model, vocab_size=9, n_special=0)
  assert (config.units, config.n_embd, config.n_ctx) == sizes
  assert config.embd_pdrop == config.output_pdrop == 0.1


def test_words_of_pretrain():
  assert pretrain.get_config('lstm') == pretrain.get_config('lstm,paper')
  for words, message in (
    ('lstm,openai', 'no LSTM'),
    ('lstm,large', 'is not a preset'),
  ):
    with pytest.raises(ValueError, match=message):
      pretrain.get_config(words)


def test_own_task_is_ten_lines_on_the_same_config():
  config = own_task.get_config()
  task = table.resolve(OwnTask(**config.task))
  assert (task.name, task.labels) == ('my_task', ('bad', 'good'))
  assert config.optim == finetune.get_config('rte').optim
  assert own_task.get_config('tiny').train.num_steps == 20
  lines = pathlib.Path(own_task.__file__).read_text().splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('def '))
  assert len(lines) - start <= 10
