"""init_from=frequencies adds each token's log frequency to its logit."""

import pathlib

import jax
import numpy as np
import pytest

from gpt1_jax import cli, config
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import checkpoint, pretraining, sharding, step
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
  """At every position; no other weight changes."""
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
def test_a_run_begins_with_them_once(data, tmp_path):
  """They help at once; a resumed or forked run does not add them again."""
  losses = {}
  for start in ('none', 'frequencies'):
    workdir = tmp_path / start
    words = (
      *short_runs.options(data, workdir),
      f'--config.init_from={start}',
      '--config.train.num_steps=20',
    )
    done = commands.run('pretrain', *words)
    assert ('counting ' in done.stderr) == (start == 'frequencies')
    losses[start] = [row['loss'] for row in rows(workdir) if 'loss' in row]
  vocab_size = checkpoint.read(str(workdir)).meta.model.vocab_size
  counts_V = counts_of(data, vocab_size)
  shares_V = counts_V[counts_V > 0] / counts_V.sum()
  entropy = -shares_V @ np.log(shares_V)
  gain = losses['none'][0] - losses['frequencies'][0]
  assert gain > 0.75 * (losses['none'][0] - entropy)
  fork = tmp_path / 'fork'
  for more in (
    (*words, '--config.train.num_steps=24'),
    (
      *short_runs.options(data, fork),
      '--config.init_from=frequencies',
      f'--fork_from={workdir}@20',
      '--config.train.num_steps=24',
    ),
  ):
    done = commands.run('pretrain', *more)
    assert done.returncode == 0, done.stderr
    assert 'counting ' not in done.stderr
  resumed, forked = (checkpoint.read(str(run)) for run in (workdir, fork))
  assert (resumed.step, forked.step) == (24, 24)
  jax.tree.map(np.testing.assert_array_equal, resumed.params, forked.params)


@pytest.mark.parametrize(
  ('preset', 'changes'),
  [('lstm,tiny', {}), ('tiny', {'softmax_rows': 'all'})],
)
def test_what_they_do_not_fit_is_refused(preset, changes):
  values = values_of(preset, 'frequencies')
  values['model'] |= changes
  with pytest.raises(UserError, match=r'needs model\.kind=gpt and model\.soft'):
    config.parse(config.PretrainConfig, values)
  values['init_from'] = 'none'
  config.parse(config.PretrainConfig, values)


@pytest.mark.parametrize(
  ('init_from', 'folder'),
  [('none', None), ('frequencies', None), ('./frequencies', './frequencies')],
)
def test_they_are_no_folder(init_from, folder):
  parsed = config.parse(config.PretrainConfig, values_of('tiny', init_from))
  assert parsed.folder_of_weights == folder
