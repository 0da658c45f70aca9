"""init_from=frequencies adds the tokens' log frequencies to all logits."""

import pathlib

import jax
import numpy as np
import pytest

from gpt1_jax import cli, config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import pretraining, sharding, step
from tests.support import commands, short_runs
from tests.support.small_runs import rows


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return short_runs.prepare(tmp_path_factory.mktemp('data'))


def values_of(preset: str, init_from: str) -> config.Values:
  """Returns the plain configuration of a preset."""
  values = cli.config_values(f'{commands.ROOT}/configs/pretrain.py:{preset}')
  values['data']['path'] = 'unused'
  return {**values, 'init_from': init_from}


def counts_of(data: pathlib.Path, vocab_size: int) -> np.ndarray:
  """Counts the tokens of the training text in the file itself."""
  (shard,) = data.glob('train-*.bin')
  return np.bincount(np.fromfile(shard, '<u2'), minlength=vocab_size)


@pytest.mark.parametrize('axes', [(8, 1, 1), (2, 2, 2)])
def test_the_logits_gain_the_log_frequencies(data, axes):
  """Whatever came before; all other weights are as without the setting."""
  states = []
  for start in ('none', 'frequencies'):
    values = values_of('tiny', start)
    values['mesh'] |= dict(zip(('data', 'fsdp', 'tensor'), axes, strict=True))
    settings = config.parse(config.PretrainConfig, values)
    loaded = pretraining.load(settings, str(data))
    program, built = loaded.program, loaded.program.state
    with sharding.use(program.mesh):
      state = program.new_state(step.place_seed(3, program.mesh))
    placed = (jax.tree.map(lambda x: x.sharding, s) for s in (state, built))
    assert next(placed) == next(placed)
    states.append(jax.device_get(state.params))
  plain, changed = (dict(params['gpt']) for params in states)
  tokens_BT = np.arange(2 * 64).reshape(2, 64) % loaded.model.vocab_size
  h_BTD, embed_VD = gpt.GPT(loaded.model).apply(
    {'params': changed}, tokens_BT, dropout_key=None
  )
  gained_BTV = h_BTD @ (embed_VD - plain.pop('tokens_embed')).T
  counts_V = counts_of(data, loaded.model.vocab_size) + 1
  shares_V = counts_V / counts_V.sum()
  log_V = np.log(shares_V) - shares_V @ np.log(shares_V)
  np.testing.assert_allclose(
    gained_BTV, np.broadcast_to(log_V, gained_BTV.shape), atol=1e-5
  )
  del changed['tokens_embed']
  biases = changed['h']['ln_2'].pop('bias'), plain['h']['ln_2'].pop('bias')
  np.testing.assert_array_equal(biases[0][:-1], biases[1][:-1])
  jax.tree.map(np.testing.assert_array_equal, changed, plain)


@pytest.mark.slow
def test_a_resumed_run_does_not_begin_again(data, tmp_path):
  workdir = tmp_path / 'run'
  words = (*short_runs.options(data, workdir), '--config.init_from=frequencies')
  commands.succeed('pretrain', *words, '--config.train.num_steps=100')
  commands.succeed('pretrain', *words, '--config.train.num_steps=120')
  first, *_, before, after = (r['loss'] for r in rows(workdir) if 'loss' in r)
  assert max(before, after) < first - 0.5


def test_an_lstm_is_refused():
  values = values_of('lstm,tiny', 'frequencies')
  with pytest.raises(UserError, match=r'needs model\.kind gpt, and it is lstm'):
    config.parse(config.PretrainConfig, values)
