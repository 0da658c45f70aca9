"""A saved train step: the same bits, and nothing but what it was made for.

On CPU devices; that a TPU's executable runs on a slice was not tried.
"""

import json

import jax
import numpy as np
import pytest

from gpt1_jax import cli
from gpt1_jax.compiler import compiled, executable
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips, pretraining, sharding, step as step_lib
from tests import compiled_test, pipeline_test
from tests.support import commands

MESH = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}


def config(**changes):
  shape = {'model.n_layer': 2, 'model.n_embd': 64, 'model.n_ctx': 16}
  return compiled_test.small(**{**shape, **MESH, **changes})


def build(settings, vocab_size=97, num_steps=10):
  parts = pretraining.settings(settings)
  mesh = cli.fill('mesh', sharding.make_mesh, parts.mesh, devices=jax.devices())
  model = pretraining.model_config(parts, vocab_size)
  return pretraining.build(parts, model, mesh, num_steps)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A file, and the program it holds, jitted anew."""
  path = str(tmp_path_factory.mktemp('executable') / 'step')
  topology = chips.topology('local', 1)
  _, built = compiled.compile_config(config(), topology, 97, 10)
  executable.save(path, *built, config())
  return path, build(config())


def losses(program):
  """Of four updates, with the parameters they lead to."""
  rng = np.random.default_rng(0)
  batch = {
    'tokens': rng.integers(0, 97, (16, 16), np.int32),
    'lm_weights': np.ones((16, 16), np.float32),
  }
  with sharding.use(program.mesh):
    seed = step_lib.place_seed(3, program.mesh)
    state, out = program.new_state(seed), []
    for _ in range(4):
      placed = sharding.put_batch(batch, program.mesh)
      state, metrics = program.train_step(state, placed, seed)
      out.append(jax.device_get(metrics))
    return out, jax.device_get(state.params)


def test_loaded_equals_compiled_bit_for_bit(saved):
  path, program = saved
  loaded = executable.load(path, program, config())
  assert isinstance(loaded.train_step, jax.stages.Compiled)
  for x, y in zip(
    jax.tree.leaves(losses(loaded)),
    jax.tree.leaves(losses(program)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'optim.peak_lr': 1e-4},
      r'config\.optim\.peak_lr differ',
    ),
    ({'model.dtype': 'bfloat16'}, r'config\.model\.dtype differ'),
    ({'train.microbatches': 2}, r'config\.train\.microbatches differ'),
    (
      {'mesh.data': 4, 'mesh.tensor': 1},
      r'another mesh .*\[2, 2, 2\], and here it is \[4, 2, 1\]',
    ),
  ],
)
def test_another_configuration_is_refused(saved, changes, message):
  other = config(**changes)
  with pytest.raises(UserError, match=message):
    executable.load(saved[0], build(other), other)


def test_settings_beside_the_step_may_differ(saved):
  other = config(**{'train.log_every': 7, 'data.seed': 9, 'train.seed': 4})
  built = build(other)
  loaded = executable.load(saved[0], built, other)
  assert loaded.train_step is not built.train_step


@pytest.mark.parametrize('change', [{'vocab_size': 98}, {'num_steps': 11}])
def test_what_the_configuration_does_not_tell_is_checked_too(saved, change):
  with pytest.raises(UserError, match='the number of updates or the code'):
    executable.load(saved[0], build(config(), **change), config())


@pytest.mark.parametrize(
  ('key', 'words'),
  [('jax', 'version of jax'), ('device_kind', 'kind of device')],
)
def test_another_machine_is_refused(saved, tmp_path, key, words):
  path, program = saved
  with open(path, 'rb') as file:
    header, payload = json.loads(file.readline()), file.read()
  other = tmp_path / 'other'
  header[key] = 'another'
  other.write_bytes(json.dumps(header).encode() + b'\n' + payload)
  with pytest.raises(UserError, match=f'another {words}: another, and here'):
    executable.load(str(other), program, config())


def test_what_is_no_executable_is_refused(saved, tmp_path):
  path = tmp_path / 'damaged'
  for content in (b'', b'x', b'{}\n', b'[1]\nx', b'\x80\x81\n'):
    path.write_bytes(content)
    with pytest.raises(UserError, match='not an executable'):
      executable.load(str(path), saved[1], config())


@pytest.mark.slow
def test_pretrain_with_a_saved_step_loses_the_same(data, run, tmp_path):
  """The commands, as a user runs them; `run` is without it."""
  path = tmp_path / 'step'
  commands.succeed(
    'launch/aot_compile.py',
    *pipeline_test.TINY,
    f'--config.data.path={data}',
    '--topology=local',
    f'--save={path}',
  )
  workdir = tmp_path / 'run'
  options = (*pipeline_test.TINY, f'--config.data.path={data}')
  commands.succeed(
    'pretrain', *options, f'--workdir={workdir}', f'--executable={path}'
  )
  assert rows(workdir) == rows(run)
  line = commands.fail(
    'pretrain',
    *options,
    '--config.optim.peak_lr=1e-4',
    f'--workdir={tmp_path / "other"}',
    f'--executable={path}',
  )
  assert 'config.optim.peak_lr differ' in line


def rows(workdir):
  """What was measured, without what the clock says."""
  timed = ('seconds', 'tokens_per_second')
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [
    {k: v for k, v in json.loads(line).items() if k not in timed}
    for line in lines
  ]


data, run = pipeline_test.data, pipeline_test.run
