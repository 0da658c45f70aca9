"""Checks settings: types, bounds, and a line for each mistake."""

import dataclasses

import pytest

from gpt1_jax import cli, config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, lstm, models
from gpt1_jax.task_settings import OwnTask
from tests.support import commands, networks


def values_of(spec='pretrain.py:tiny'):
  values = cli.config_values(f'{commands.ROOT}/configs/{spec}')
  values['data']['path'] = values['init_from'] = 'x'
  return values


def pretraining(values):
  return config.parse(config.PretrainConfig, values)


def finetuning(values):
  return config.parse(config.FinetuneConfig, values)


# A configuration, and wrong values that its sections must refuse.
WRONG = {
  'pretrain.py:tiny': {
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
    'optim.peak_lr': [0.0, 1e-320, -1.0, float('nan'), float('inf'), 1e30],
    'optim.warmup': [-1.0, float('inf')],
    'optim.b1': [1.0, 0.99999999, -0.1],
    'optim.b2': [1.0],
    'optim.eps': [0.0, 1e-320],
    'optim.weight_decay': [-0.01],
    'optim.clip_norm': [-1.0, 1j],
    'train.num_steps': [-1, 1.5],
    'train.num_epochs': [float('inf'), -1.0],
    'train.eval_every': [0, -1],
    'train.checkpoint_every': [0],
    'train.checkpoint_minutes': [-1.0, float('inf')],
    'train.stall_minutes': [-1.0, float('nan')],
    'init_from': [3, ''],
    'data.path': [''],
    'train.keep': [0, {3}],
    'train.microbatches': [0],
    'train.seed': [-1, 2**31],
    'data.batch_size': [0, 10**9],
    'data.seed': [-1, 2**32],
    'data.cross_documents': [1],
    'mesh.data': [0, -2],
  },
  'pretrain.py:lstm,tiny': {
    'model.units': [0],
    'model.output_pdrop': [1.0],
    'model.dtype': ['float16'],
    'model.n_head': [4],
  },
  'finetune.py:rte': {
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
    'init_from': [''],
    'data.path': [''],
  },
}
CASES = [
  (spec, key, value)
  for spec, keys in WRONG.items()
  for key, values in keys.items()
  for value in values
]


@pytest.mark.parametrize(('spec', 'key', 'value'), CASES, ids=str)
def test_a_wrong_value_is_named(spec, key, value):
  """Expects the key, or its section, and the value in the message."""
  parse = finetuning if spec.startswith('finetune') else pretraining
  values = values_of(spec)
  parse(values)
  section, _, name = key.rpartition('.')
  (values[section] if section else values)[name] = value
  with pytest.raises(UserError) as caught:
    parse(values)
  message = str(caught.value)
  assert f'config.{key}' in message or f'config.{section}: ' in message
  assert name in message or section == 'mesh'


@pytest.mark.parametrize(
  'text', ['1j', '{1, 2}', '{(1, 2): 3}', '-' * 100_000 + '1', '[' * 10_000]
)
def test_a_flag_that_is_no_setting_is_named(text):
  values = values_of()
  cli._set(values, 'model.n_layer', text)
  with pytest.raises(UserError, match=r'^config'):
    pretraining(values)


def test_a_name_that_is_not_utf8_is_named():
  values = values_of()
  cli._set(values, 'data.path', 'books\udcff')  # as Python reads such a flag
  with pytest.raises(UserError) as caught:
    pretraining(values)
  assert str(caught.value) == (
    r"config.data.path is 'books\udcff': not UTF-8 at character 6; rename the "
    'file or folder'
  )


@pytest.mark.parametrize(
  ('settings', 'is_refused'),
  [
    ({'optim.warmup': '300', 'train.num_steps': '200'}, True),
    ({'optim.warmup': '201'}, True),  # the preset has 200 updates
    ({'optim.warmup': '200'}, False),
    ({'optim.warmup': '0.5', 'train.num_steps': '1'}, False),
    ({'train.num_steps': '6'}, False),  # a short run of the preset
    (
      {
        'optim.warmup': '300',
        'train.num_steps': '0',
        'train.num_epochs': '1.0',
      },
      False,
    ),
  ],
)
def test_a_warm_up_longer_than_the_run(monkeypatch, settings, is_refused):
  monkeypatch.setattr(cli, '_settings', list(settings.items()))
  if not is_refused:
    values_of()
    return
  with pytest.raises(
    UserError, match=r'warmup is \d+: longer than the run of 2'
  ):
    values_of()


def test_a_number_that_cannot_be_written_is_refused():
  values = values_of()
  values['model']['n_layer'] = 10**5000
  with pytest.raises(UserError, match=r'^config: a value is not JSON'):
    pretraining(values)


def test_a_missing_and_an_unknown_section_are_named():
  values = values_of()
  del values['mesh'], values['model']['kind']
  values['optimizer'] = values['optim']
  with pytest.raises(UserError) as caught:
    pretraining(values)
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
  with pytest.raises(UserError, match='vocab_size is 0'):
    models.read({**values, 'vocab_size': 0})


def test_exactly_one_length():
  values = values_of()
  assert pretraining(values).train.updates(100.0) == 200
  values['train'] |= {'num_steps': 0, 'num_epochs': 1.5}
  assert pretraining(values).train.updates(100.0) == 150
  values['train']['num_epochs'] = 0.0
  with pytest.raises(UserError, match='set exactly one'):
    pretraining(values)


def test_an_own_task_is_checked_key_by_key():
  values = values_of('own_task.py')
  task = finetuning(values).task
  assert isinstance(task, OwnTask)
  assert (task.name, task.labels) == ('my_task', ('bad', 'good'))
  values['task'] |= {'kind': 'clas', 'labls': ['a']}
  with pytest.raises(UserError) as caught:
    finetuning(values)
  assert 'did you mean labels?' in str(caught.value)
  assert "config.task.kind is 'clas': must be 'classif" in str(caught.value)
