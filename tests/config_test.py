"""Checks settings: types, bounds, and a line for each mistake."""

import dataclasses
import pathlib

import pytest

from gpt1_jax import cli, config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, lstm, models
from tests.support import networks

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = f'{ROOT}/configs/pretrain.py:tiny'


def pretraining(words='tiny'):
  values = cli.config_values(f'{ROOT}/configs/pretrain.py:{words}')
  values['data']['path'] = 'x'
  return values


def finetuning():
  values = cli.config_values(f'{ROOT}/configs/finetune.py:rte')
  values['data']['path'] = values['init_from'] = 'x'
  return values


# A preset, and wrong values that its section must refuse.
WRONG = {
  'pretrain': {
    'model.n_head': [3, 0, 2.0, '4', True],
    'model.n_layer': [0, -1],
    'model.attn_pdrop': [1.0, -0.1, 'a tenth'],
    'model.dtype': ['float16'],
    'model.remat': ['some'],
    'model.attention': ['splash'],
    'model.unroll': [0],
    'model.kind': ['rnn'],
    'optim.variant': ['adam'],
    'optim.schedule': ['constant'],
    'optim.peak_lr': [0.0, -1.0, float('nan'), float('inf'), 1e30],
    'optim.warmup': [-1.0, float('inf')],
    'optim.b1': [1.0, -0.1],
    'optim.b2': [1.0],
    'optim.eps': [0.0],
    'optim.weight_decay': [-0.01],
    'optim.clip_norm': [-1.0],
    'train.num_steps': [-1, 1.5],
    'train.num_epochs': [float('inf'), -1.0],
    'train.eval_every': [0, -1],
    'train.checkpoint_every': [0],
    'train.keep': [0],
    'train.microbatches': [0],
    'train.seed': [-1, 2**31],
    'data.batch_size': [0, 10**9],
    'data.seed': [-1, 2**32],
    'data.cross_documents': [1],
    'mesh.data': [0, -2],
  },
  'lstm,tiny': {
    'model.units': [0],
    'model.output_pdrop': [1.0],
    'model.dtype': ['float16'],
    'model.n_head': [4],
  },
  'finetune': {
    'head.clf_pdrop': [1.0],
    'head.lm_coef': [-0.5],
    'head.lm_reduction': ['mean'],
    'head.regression': ['none'],
    'transfer.layers': [-2, 0.5],
    'train.seeds': [0],
    'train.eval_every': [-1],
    'data.lengths': [(), (0,), 'short', (8, 'a')],
    'data.truncation': ['middle'],
    'task': [3],
  },
}
CASES = [
  (words, key, value)
  for words, keys in WRONG.items()
  for key, values in keys.items()
  for value in values
]


@pytest.mark.parametrize(
  ('words', 'key', 'value'), CASES, ids=lambda part: str(part)
)
def test_a_wrong_value_is_named(words, key, value):
  """The message names the key, or its section, and the value."""
  kind, values = config.PretrainConfig, None
  if words == 'finetune':
    kind, values = config.FinetuneConfig, finetuning()
  else:
    values = pretraining('tiny' if words == 'pretrain' else words)
  config.parse(kind, values)
  section, _, name = key.rpartition('.')
  (values[section] if section else values)[name] = value
  with pytest.raises(UserError) as caught:
    config.parse(kind, values)
  message = str(caught.value)
  assert f'config.{key}' in message or f'config.{section}: ' in message
  assert name in message or section == 'mesh'


def test_a_missing_and_an_unknown_section_are_named():
  values = pretraining()
  del values['mesh'], values['model']['kind']
  values['optimizer'] = values['optim']
  with pytest.raises(UserError) as caught:
    config.parse(config.PretrainConfig, values)
  message = str(caught.value)
  assert message.startswith('3 invalid settings:')
  assert 'config.mesh is missing' in message
  assert 'config.model.kind is missing' in message
  assert 'config.optimizer: no such key; did you mean optim?' in message


@pytest.mark.parametrize(
  ('recorded', 'network'),
  [(networks.GPT_CONFIG, gpt.GPT), (networks.LSTM_CONFIG, lstm.LSTM)],
)
def test_a_recorded_model_is_read_back(recorded, network):
  values = dataclasses.asdict(recorded)
  assert models.read(values) == recorded
  assert type(models.new(recorded)) is network
  with pytest.raises(UserError, match='dtype is missing'):
    models.read({k: v for k, v in values.items() if k != 'dtype'})
  with pytest.raises(UserError, match="kind is 'rnn'"):
    models.read({**values, 'kind': 'rnn'})


def test_exactly_one_length():
  values = cli.config_values(TINY)
  values['data']['path'] = 'x'
  train = config.parse(config.PretrainConfig, values).train
  assert train.updates(100.0) == 200
  values['train'] |= {'num_steps': 0, 'num_epochs': 1.5}
  train = config.parse(config.PretrainConfig, values).train
  assert train.updates(100.0) == 150
  values['train']['num_epochs'] = 0.0
  with pytest.raises(UserError, match='set exactly one'):
    config.parse(config.PretrainConfig, values)


def test_an_own_task_is_checked_key_by_key():
  values = cli.config_values(f'{ROOT}/configs/own_task.py')
  values |= {'init_from': 'x'}
  values['data']['path'] = 'y'
  task = config.parse(config.FinetuneConfig, values).task
  assert isinstance(task, config.OwnTask)
  assert (task.name, task.labels) == ('my_task', ('bad', 'good'))
  values['task'] |= {'kind': 'clas', 'labls': ['a']}
  with pytest.raises(UserError) as caught:
    config.parse(config.FinetuneConfig, values)
  assert 'did you mean labels?' in str(caught.value)
  assert "config.task.kind is 'clas': must be 'classif" in str(caught.value)
