"""Counts of the training text in the initial weights (config.init_from)."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from gpt1_jax import cli, config
from gpt1_jax.corpus import neighbours, shards
from gpt1_jax.errors import Stopped, UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import checkpoint, pretraining, pulse, sharding, step
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


def new_params(
  data: pathlib.Path,
  start: str,
  axes: tuple[int, ...],
  seed: int = 3,
  **model: int,
) -> tuple[dict[str, Any], gpt.GPT]:
  """Returns new weights on a mesh, and the network."""
  values = values_of('tiny', start)
  values['mesh'] |= dict(zip(('data', 'fsdp', 'tensor'), axes, strict=True))
  values['model'] |= model
  settings = config.parse(config.PretrainConfig, values)
  loaded = pretraining.load(settings, str(data))
  program, built = loaded.program, loaded.program.state
  with sharding.use(program.mesh):
    state = program.new_state(step.place_seed(seed, program.mesh))
  placed = (jax.tree.map(lambda x: x.sharding, s) for s in (state, built))
  assert next(placed) == next(placed)
  return dict(jax.device_get(state.params)['gpt']), gpt.GPT(loaded.model)


def assert_only_embeddings_and_last_bias_differ(plain, changed):
  one, other = ({**p, 'h': {**p['h']}} for p in (plain, changed))
  biases = []
  for params in (one, other):
    del params['tokens_embed']
    norm = params['h']['ln_2'] = {**params['h']['ln_2']}
    biases.append(norm.pop('bias'))
  np.testing.assert_array_equal(biases[0][:-1], biases[1][:-1])
  jax.tree.map(np.testing.assert_array_equal, one, other)


def centred_logs(data: pathlib.Path, vocab_size: int) -> np.ndarray:
  counts_V = counts_of(data, vocab_size) + 1
  shares_V = counts_V / counts_V.sum()
  return np.log(shares_V) - shares_V @ np.log(shares_V)


@pytest.mark.parametrize('axes', [(8, 1, 1), (2, 2, 2)])
def test_the_logits_gain_the_log_frequencies(data, axes):
  """At every position; no other weight changes."""
  plain, _ = new_params(data, 'none', axes)
  changed, network = new_params(data, 'frequencies', axes)
  vocab_size = len(plain['tokens_embed'])
  tokens_BT = np.arange(2 * 64).reshape(2, 64) % vocab_size
  h_BTD, embed_VD = network.apply(
    {'params': changed}, tokens_BT, dropout_key=None
  )
  gained_BTV = h_BTD @ (embed_VD - plain['tokens_embed']).T
  log_V = centred_logs(data, vocab_size)
  np.testing.assert_allclose(
    gained_BTV, np.broadcast_to(log_V, gained_BTV.shape), atol=1e-5
  )
  assert_only_embeddings_and_last_bias_differ(plain, changed)


@pytest.mark.parametrize('axes', [(8, 1, 1), (2, 2, 2)])
def test_neighbours_replace_the_random_embeddings(data, axes):
  """In some basis, at N(0, 0.02)'s scale; the frequencies are added, too."""
  width = 32
  plain, _ = new_params(data, 'none', axes, n_embd=width)
  changed, _ = new_params(data, 'neighbours', axes, n_embd=width)
  vocab_size = len(plain['tokens_embed'])
  log_V = centred_logs(data, vocab_size)
  embed_VD = changed['tokens_embed'] - log_V[:, None] / (0.3 * width)
  rows_VD = neighbours.embed(shards.Tokens(data, 'train'), vocab_size, width)
  known = rows_VD.any(-1)
  assert 20 < known.sum() < vocab_size
  np.testing.assert_allclose(
    embed_VD[~known], plain['tokens_embed'][~known], atol=1e-7
  )
  embed_VD, rows_VD = embed_VD[known], rows_VD[known]
  np.testing.assert_allclose(
    embed_VD @ embed_VD.T, 0.02**2 * width * rows_VD @ rows_VD.T, atol=1e-7
  )
  sizes_D, sorted_D = (np.linalg.norm(x, axis=0) for x in (embed_VD, rows_VD))
  assert sizes_D.max() / sizes_D.min() < 0.5 * sorted_D[0] / sorted_D[-1]
  other, _ = new_params(data, 'neighbours', axes, seed=4, n_embd=width)
  turned_VD = (other['tokens_embed'] - log_V[:, None] / (0.3 * width))[known]
  assert np.abs(turned_VD - embed_VD).max() > 0.02
  np.testing.assert_allclose(
    turned_VD @ turned_VD.T, embed_VD @ embed_VD.T, atol=1e-7
  )
  assert_only_embeddings_and_last_bias_differ(plain, changed)


def test_a_signal_stops_counting(data, monkeypatch):
  monkeypatch.setattr(pulse, 'asked', lambda: True)
  with pytest.raises(Stopped, match='while counting neighbours; the same'):
    new_params(data, 'neighbours', (8, 1, 1))


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


@pytest.mark.parametrize('start', config.FROM_TEXT)
@pytest.mark.parametrize(
  ('preset', 'changes'),
  [('lstm,tiny', {}), ('tiny', {'softmax_rows': 'all'})],
)
def test_what_they_do_not_fit_is_refused(start, preset, changes):
  values = values_of(preset, start)
  values['model'] |= changes
  with pytest.raises(
    UserError, match=f'init_from is {start}: needs model.kind=gpt'
  ):
    config.parse(config.PretrainConfig, values)
  values['init_from'] = 'none'
  config.parse(config.PretrainConfig, values)


def test_a_misspelt_start_is_refused_by_its_setting(data, tmp_path):
  done = commands.run(
    'pretrain',
    *short_runs.options(data, tmp_path / 'run'),
    '--config.init_from=neighbors',
  )
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1] == (
    'error: config.init_from is neighbors: no such folder, and none of none, '
    'frequencies, neighbours'
  )
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('init_from', 'folder'),
  [
    ('none', None),
    ('frequencies', None),
    ('neighbours', None),
    ('./neighbours', './neighbours'),
  ],
)
def test_they_are_no_folder(init_from, folder):
  parsed = config.parse(config.PretrainConfig, values_of('tiny', init_from))
  assert parsed.folder_of_weights == folder
