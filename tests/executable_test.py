"""A saved train step gives the same bits, and loads only for its program.

Runs on CPU devices. An executable for a TPU was never loaded on one.
"""

import json

import jax
import pytest

from gpt1_jax.compiler import executable, stats
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips, pretraining, sharding, step
from tests.support import compiled_steps, updates

SIZES = {
  **{'model.n_layer': 2, 'model.n_embd': 64, 'model.n_ctx': 16},
  **{'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2},
}


def config(**changes):
  return compiled_steps.small(**{**SIZES, **changes})


def build(settings, vocab_size=97, num_steps=10):
  mesh = sharding.make_mesh(jax.devices(), **settings.mesh.axes)
  model = pretraining.model_config(settings, vocab_size)
  return pretraining.build(settings, model, mesh, num_steps)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Saves a step; returns the file and the program, not yet compiled."""
  path = str(tmp_path_factory.mktemp('executable') / 'step')
  topology = chips.topology('local', 1)
  with compiled_steps.uncached():
    _, program, compiled = stats.compile_step(config(), topology, 97, 10)
  executable.save(path, program, compiled, config())
  return path, build(config())


def losses(program):
  """Returns the metrics of four updates, and the parameters after them."""
  batch = {**updates.BATCH, 'tokens': updates.BATCH['tokens'] % 97}
  with sharding.use(program.mesh):
    seed = step.place_seed(3, program.mesh)
    state, out = program.new_state(seed), []
    for _ in range(4):
      placed = sharding.put_batch(batch, program.mesh)
      state, metrics = program.train_step(state, placed, seed)
      out.append(jax.device_get(metrics))
    return out, jax.device_get(state.params)


def test_loaded_step_equals_compiled_step_bit_for_bit(saved):
  path, program = saved
  loaded = executable.load(path, program, config())
  assert isinstance(loaded.train_step, jax.stages.Compiled)
  updates.assert_same_bits(losses(loaded), losses(program))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'optim.peak_lr': 1e-4}, r'config\.optim\.peak_lr differ'),
    ({'model.dtype': 'bfloat16'}, r'config\.model\.dtype differ'),
    ({'train.microbatches': 2}, r'config\.train\.microbatches differ'),
    (
      {'mesh.data': 4, 'mesh.tensor': 1},
      r'different mesh: 2 data x 2 fsdp x 2 tensor, but here it is 4 data x 2 ',
    ),
  ],
)
def test_another_configuration_is_refused(saved, changes, message):
  other = config(**changes)
  with pytest.raises(UserError, match=message):
    executable.load(saved[0], build(other), other)


def test_settings_outside_the_step_may_differ(saved):
  other = config(
    **{'train.log_every': 7, 'data.seed': 9, 'train.seed': 4},
    init_from='frequencies',
  )
  built = build(other)
  loaded = executable.load(saved[0], built, other)
  assert loaded.train_step is not built.train_step


@pytest.mark.parametrize('change', [{'vocab_size': 98}, {'num_steps': 110}])
def test_vocabulary_and_number_of_updates_are_checked(saved, change):
  with pytest.raises(UserError, match='the number of updates or the code'):
    executable.load(saved[0], build(config(), **change), config())


@pytest.mark.parametrize(
  ('key', 'name'),
  [('jax_version', 'jax version'), ('device_kind', 'device kind')],
)
def test_file_of_another_machine_is_refused(saved, tmp_path, key, name):
  path, program = saved
  with open(path, 'rb') as file:
    header, payload = json.loads(file.readline()), file.read()
  other = tmp_path / 'other'
  header[key] = 'another'
  other.write_bytes(json.dumps(header).encode() + b'\n' + payload)
  with pytest.raises(UserError, match=f'different {name}: another, but here'):
    executable.load(str(other), program, config())


def test_other_files_are_refused(saved, tmp_path):
  path = tmp_path / 'damaged'
  for content in (b'', b'x', b'{}\n', b'[1]\nx', b'\x80\x81\n'):
    path.write_bytes(content)
    with pytest.raises(UserError, match='not an executable'):
      executable.load(str(path), saved[1], config())
