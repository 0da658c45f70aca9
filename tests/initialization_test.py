"""Initial weights of fine-tuning, and the products an ablation saves."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.tasks import all_tasks, initialization
from gpt1_jax.train import checkpoint, run
from tests.support import (
  finetuning as finetuning_runs,
  networks,
  reference,
  task_cases,
)

LSTM_RATES = {'embd_pdrop': 0.1, 'output_pdrop': 0.1}
DEEP = dataclasses.replace(task_cases.CONFIG, n_layer=3)


@pytest.mark.parametrize('layers', [0, 1, 2, 3])
def test_the_first_layers_are_taken_and_the_rest_is_fresh(layers):
  """Bit for bit; embeddings are always taken, specials and head never."""
  old = jax.device_get(
    networks.gpt_params(dataclasses.replace(DEEP, n_special=0))
  )
  scratch = jax.device_get(task_cases.fresh(DEEP))
  params = jax.device_get(
    initialization.transfer({'gpt': old}, task_cases.fresh(DEEP), layers)
  )
  expected = {
    **scratch['gpt'],
    'tokens_embed': np.concatenate(
      [old['tokens_embed'], scratch['gpt']['tokens_embed'][10:]]
    ),
    'positions_embed': old['positions_embed'],
  }
  blocks = reference.flat(expected.pop('h'))
  found = reference.flat(params['gpt'].pop('h'))
  taken = reference.flat(old['h'])
  assert found.keys() == blocks.keys() == taken.keys()
  for name, x in found.items():
    np.testing.assert_array_equal(x[:layers], taken[name][:layers])
    np.testing.assert_array_equal(x[layers:], blocks[name][layers:])
  jax.tree.map(np.testing.assert_array_equal, params['gpt'], expected)
  jax.tree.map(np.testing.assert_array_equal, params['head'], scratch['head'])


def test_the_one_layer_of_an_lstm_is_taken():
  config = dataclasses.replace(networks.LSTM_CONFIG, n_special=3)
  scratch = task_cases.fresh(config)
  old = jax.device_get(networks.lstm_params())
  params = initialization.transfer({'gpt': old}, scratch, config.n_layer)
  specials = jax.device_get(scratch['gpt']['tokens_embed'])[101:]
  expected = reference.flat(old)
  expected['tokens_embed'] = np.concatenate([old['tokens_embed'], specials])
  found = reference.flat(jax.device_get(params['gpt']))
  assert found.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_array_equal(found[name], x)


def vocabulary_shapes(lm_coef, config):
  """Shapes with a vocabulary axis in an update's program, before XLA."""
  case = task_cases.CASES['classification']
  params = {
    'gpt': task_cases.fresh(config)['gpt'],
    'head': task_cases.random_params(case, DEEP)['head'],
  }
  step, state = task_cases.sgd_step(case, config, params, lm_coef)
  batch = jax.tree.map(jnp.asarray, task_cases.built(case))
  text = step.lower(state, batch).as_text()
  shapes = set(re.findall(r'tensor<([0-9x]+)x[a-z]', text))
  rows = str(config.token_rows)
  return {shape for shape in shapes if rows in shape.split('x')}


@pytest.mark.parametrize(
  'config',
  [
    dataclasses.replace(DEEP, vocab_size=1008),
    dataclasses.replace(
      networks.LSTM_CONFIG, vocab_size=1008, n_special=3, n_embd=64
    ),
  ],
  ids=['gpt', 'lstm'],
)
def test_without_auxiliary_lm_no_logits_are_computed(config):
  """Nothing in the program has the vocabulary's rows but the embedding."""
  assert vocabulary_shapes(0.0, config) == {'1011x64'}
  assert len(vocabulary_shapes(0.5, config)) > 1


@pytest.mark.slow
def test_layers_and_their_record(configure, shared_data, tmp_path):
  """layers=n_layer equals layers=-1; config.json records the number."""
  archives = shared_data / 'tasks' / 'archives'

  def tuned(name, **changes):
    config = configure('rte', archives, **changes)
    config = finetuning_runs.parsed(config)
    all_tasks.finetune(config, str(tmp_path / name), config.data.path)
    return run.load(str(tmp_path / name)), [
      (tmp_path / name / 'predictions' / 'dev.tsv').read_text(),
      *jax.tree.leaves(checkpoint.read(str(tmp_path / name))[0]),
    ]

  facts, full = tuned('full')
  assert facts['layers_transferred'] == 1
  assert facts['model']['kind'] == facts['config']['model']['kind'] == 'gpt'
  facts, by_number = tuned('one', transfer__layers=1)
  assert facts['layers_transferred'] == facts['config']['transfer']['layers']
  for x, y in zip(full, by_number, strict=True):
    np.testing.assert_array_equal(x, y)
  facts, none = tuned('none', transfer__layers=0)
  assert facts['layers_transferred'] == 0
  assert none[0] != full[0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'init_from': 'none'}, 'init_from is none: set --config.like'),
    ({'transfer': {'layers': 2}}, 'is 2, and .*pretrained has 1: give 0 to 1'),
    ({'transfer': {'layers': -2}}, 'layers is -2: must be at least -1'),
    (
      {'model': {'kind': 'lstm', 'dtype': 'float32'} | LSTM_RATES},
      'its model is a gpt, config.model.kind is lstm; use .*py:TASK$',
    ),
  ],
)
def test_an_impossible_start_is_one_line(configure, tmp_path, change, message):
  values = {**configure('rte', tmp_path), **change}
  with pytest.raises(UserError, match=message):
    initialization.read_source(finetuning_runs.parsed(values))


def test_from_scratch_nothing_is_transferred(configure, pretrained, tmp_path):
  values = configure('rte', tmp_path)
  values |= {'init_from': 'none', 'like': str(pretrained)}
  source = initialization.read_source(finetuning_runs.parsed(values))
  assert (source.params, source.layers) == (None, None)
  assert source.model.n_special == 3
  values['transfer'] = {'layers': 1}
  with pytest.raises(UserError, match='nothing is transferred from scratch'):
    initialization.read_source(finetuning_runs.parsed(values))


def test_a_resumed_run_may_change_the_machine_and_nothing_else(tmp_path):
  model = {'kind': 'gpt', 'n_layer': 2, 'attention': 'auto'}
  config = {'model': model, 'transfer': {'layers': -1}}
  run.start(str(tmp_path), 'finetune', config, {})
  for section, key, value in (
    ('model', 'kind', 'lstm'),
    ('transfer', 'layers', 1),
  ):
    other = {**config, section: {**config[section], key: value}}
    with pytest.raises(UserError, match=f'different {section}.{key}'):
      run.start(str(tmp_path), 'finetune', other, {})
  machine = {'attention': 'plain', 'remat': 'full'}
  run.start(
    str(tmp_path), 'finetune', {**config, 'model': {**model, **machine}}, {}
  )
