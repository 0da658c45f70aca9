"""The training loop, with an update that only counts."""

import contextlib
import dataclasses
import shutil
import struct
import time
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from gpt1_jax import interrupts
from gpt1_jax.errors import RunError, Stopped, UserError
from gpt1_jax.train import (
  boards,
  checkpoint,
  loop,
  pace,
  profiling,
  pulse,
  sharding,
  telemetry,
)
from gpt1_jax.train.step import TrainState
from tests.support import networks, updates
from tests.support.meshes import make_mesh
from tests.support.small_runs import rows

NUM_STEPS = 4
SETTINGS = dataclasses.replace(
  updates.pretrain_config().train,
  log_every=1,
  checkpoint_minutes=0.0,
  stall_minutes=0.0,
  keep=3,
)
PACE = pace.Pace(SETTINGS, eval_every=2, checkpoint_every=100)


def train(
  workdir, evaluate, sample=None, profile=None, project=None, pace=PACE
):
  """Continues the run in `workdir`; returns its last scores."""
  mesh = make_mesh(1, 1, 1)
  placed = sharding.replicated(mesh)

  def update(state, batch, seed):
    del batch, seed
    params = {'w': state.params['w'] + 1}
    norms = {'layer': jnp.array([3.0, 4.0])}
    metrics = {'loss': params['w'].sum(), 'grad_norm': jnp.float32(1)}
    metrics['layer_grad_norms'] = norms
    return TrainState(state.step + 1, params, state.opt_state), metrics

  tokens = {'tokens': np.zeros((1, 1), np.int32)}
  data = loop.TrainingData(
    types.SimpleNamespace(batch=lambda step: tokens), evaluate, 'zeros', sample
  )
  program = types.SimpleNamespace(
    mesh=mesh, num_steps=NUM_STEPS, train_step=update
  )
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  run = mock.Mock(
    seed=0, pace=pace, meta=meta, profile=profile, workdir=str(workdir)
  )
  zero = TrainState(jnp.int32(0), {'w': jnp.zeros(2)}, jnp.zeros(1))
  state = jax.device_put(zero, placed)
  with (
    sharding.use(mesh),
    contextlib.closing(
      checkpoint.Checkpoints(
        str(workdir), keep=pace.settings.keep, keep_best=bool(pace.best_metric)
      )
    ) as checkpoints,
  ):
    latest = checkpoints.latest_intact()
    if latest is not None:
      shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), state
      )
      state = checkpoints.restore(latest, shapes)
    span = telemetry.Span(int(state.step), NUM_STEPS)
    with telemetry.Telemetry(str(workdir), 'run', span, 1.0, project) as log:
      _, scores = loop.fit(state, program, data, run, checkpoints, log)
  return scores


@pytest.mark.parametrize('moment', [2, NUM_STEPS])
def test_a_signal_during_an_evaluation_saves_the_update_before_it(
  tmp_path, monkeypatch, moment
):
  seen = []

  def evaluate(params):
    seen.append(int(params['w'][0]))
    if seen == [*range(2, moment + 1, 2)]:
      monkeypatch.setattr(interrupts, 'requested', lambda: 'SIGTERM')
    pulse.tick('evaluating')
    return {'eval_loss': 1.0 / seen[-1]}

  with pytest.raises(
    Stopped, match=f'by SIGTERM after update {moment}, which is saved'
  ):
    train(tmp_path / 'run', evaluate)
  assert checkpoint.steps(str(tmp_path / 'run')) == [moment]
  monkeypatch.undo()
  assert train(tmp_path / 'run', evaluate) == {'eval_loss': 0.25}
  assert seen == sorted([2, 4, moment])
  straight = tmp_path / 'straight'
  train(straight, evaluate)
  assert rows(tmp_path / 'run') == rows(straight)


@pytest.mark.parametrize('moment', [2, NUM_STEPS])
def test_a_run_removed_during_an_evaluation_stops_and_stays_removed(
  tmp_path, moment
):
  def evaluate(params):
    if params['w'][0] == moment:
      while not (tmp_path / 'run' / 'checkpoints' / str(moment)).exists():
        time.sleep(0.01)
      shutil.rmtree(tmp_path / 'run')
    return {'eval_accuracy': 0.5}

  ranked = pace.Pace(SETTINGS, 2, 100, 'eval_accuracy')
  with pytest.raises(RunError, match='was moved or removed'):
    train(tmp_path / 'run', evaluate, lambda params: 'a sample', pace=ranked)
  assert not (tmp_path / 'run').exists()


def test_a_run_removed_while_it_starts_is_not_made_again(tmp_path):
  with pytest.raises(FileNotFoundError, match='run/tensorboard'):
    boards.Boards(tmp_path / 'run', 0, None)
  assert not (tmp_path / 'run').exists()


def test_a_signal_before_the_first_update_saves_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr(interrupts, 'requested', lambda: 'SIGTERM')
  with pytest.raises(Stopped, match='by SIGTERM before the first update; '):
    train(tmp_path, lambda params: {})
  assert not list((tmp_path / 'checkpoints').iterdir())


def test_a_signal_before_the_first_weights_makes_none(monkeypatch):
  monkeypatch.setattr(interrupts, 'requested', lambda: 'SIGTERM')
  program, checkpoints = mock.Mock(), mock.Mock()
  checkpoints.latest_intact.return_value = None
  with pytest.raises(Stopped, match='by SIGTERM before the first update; '):
    loop._first_state(program, mock.Mock(fork=None), checkpoints)
  assert not program.new_state.called


PATIENT = pace.Pace(
  dataclasses.replace(SETTINGS, keep=1), 1, 100, 'eval_accuracy', patience=1
)


@pytest.mark.parametrize('stopped', [False, True])
def test_a_run_without_a_better_score_ends_early(
  tmp_path, monkeypatch, stopped
):
  """The best checkpoint is kept; a resumed run ends after the same update."""
  scores, seen = {1: 0.5, 2: 0.7, 3: 0.7, 4: 0.9}, []

  def evaluate(params):
    seen.append(int(params['w'][0]))
    return {'eval_accuracy': scores[seen[-1]]}

  if stopped:
    with monkeypatch.context() as patch:
      rank = checkpoint.Checkpoints.rank

      def killed(checkpoints, step, score):
        if step == 3:
          raise KeyboardInterrupt
        rank(checkpoints, step, score)

      patch.setattr(checkpoint.Checkpoints, 'rank', killed)
      with pytest.raises(KeyboardInterrupt):
        train(tmp_path, evaluate, pace=PATIENT)
  for _ in range(2):  # the second start finds an ended run
    train(tmp_path, evaluate, pace=PATIENT)
  assert seen == [1, 2, 3] + [3] * stopped
  assert [row['step'] for row in rows(tmp_path)] == [1, 1, 2, 2, 3, 3]
  assert checkpoint.steps(str(tmp_path)) == [2, 3]
  assert checkpoint.read(str(tmp_path)).step == 2
  longer = dataclasses.replace(PATIENT, patience=2)
  train(tmp_path, evaluate, pace=longer)
  assert checkpoint.read(str(tmp_path)).step == 4


def test_the_last_update_is_saved_before_it_is_evaluated(tmp_path):
  def evaluate(params):
    return {'eval_loss': 1 / (NUM_STEPS - int(params['w'][0]))}

  with pytest.raises(ZeroDivisionError):
    train(tmp_path, evaluate)
  assert checkpoint.steps(str(tmp_path)) == [NUM_STEPS]


def events(folder):
  """Yields (tag, step, value) of the TensorBoard events of a run."""
  for file in (folder / 'tensorboard').iterdir():
    data = file.read_bytes()
    while data:  # length, its checksum, the event, its checksum
      (size,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for value in event.summary.value:
        text = b''.join(value.tensor.string_val).decode()
        yield value.tag, event.step, text or value.simple_value


def test_tensorboard_has_norms_times_and_samples(tmp_path):
  train(tmp_path, lambda params: {'eval_loss': 1.0}, lambda params: 'a  text')
  found = {(tag, step): value for tag, step, value in events(tmp_path)}
  for step in range(1, NUM_STEPS + 1):
    assert found['loss', step] == 2 * step
    assert found['param_norm/w', step] == pytest.approx(2**0.5 * step)
    assert found['grad_norm/layer_01', step] == 4.0
    for name in ('data', 'step', 'evaluate', 'save'):
      assert found[f'seconds_of/{name}', step] >= 0
  assert found['sample/text_summary', 4] == '    a  text'
  assert (tmp_path / 'samples.txt').read_text() == (
    'After 4 updates:\n\na  text\n'
  )
  assert not any('norm/' in name for row in rows(tmp_path) for name in row)


# As an error, this warning of jax 0.12 would abort Python.
@pytest.mark.filterwarnings('ignore:builtin type event_stats')
def test_a_trace_has_the_updates_that_were_asked_for(tmp_path):
  train(tmp_path, lambda params: {}, profile=profiling.parse('2:2'))
  (file,) = (tmp_path / 'profile').rglob('*.xplane.pb')
  traced = jax.profiler.ProfileData.from_file(str(file))
  steps = {
    dict(event.stats)['step_num']
    for plane in traced.planes
    for line in plane.lines
    for event in line.events
    if event.name == 'train'
  }
  assert steps == {2, 3}


def test_a_trace_ends_with_the_run(tmp_path, capsys):
  train(tmp_path, lambda params: {}, profile=profiling.Window(4, 9))
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert f'trace of updates: {tmp_path}/profile' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['5', '0:3', '2:0', 'a:b', '-1:2'])
def test_a_malformed_window_is_refused(text):
  with pytest.raises(UserError, match=f'--profile={text}: give START:STEPS'):
    profiling.parse(text)


def test_weights_and_biases_has_the_curves_and_is_resumed(
  tmp_path, monkeypatch
):
  pytest.importorskip('wandb', reason='wandb is not installed')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  project = boards.Project('novels', str(tmp_path), {'train': {'seed': 7}})
  for _ in range(2):
    train(
      tmp_path,
      lambda params: {'eval_loss': 1},
      lambda _: 'text',
      project=project,
    )
  name = (tmp_path / 'wandb_id.txt').read_text()
  first, second = sorted(tmp_path.glob(f'wandb/offline-run-*-{name}'))
  content = (first / f'run-{name}.wandb').read_bytes()
  for word in ('novels', 'seed', 'grad_norm/layer_01', 'eval_loss', 'sample'):
    assert word.encode() in content
  assert (second / f'run-{name}.wandb').exists()


def test_a_missing_wandb_is_named(monkeypatch):
  monkeypatch.setattr(boards.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[wandb\]'"):
    boards.Project('novels', 'run', {}).check()
  boards.Project('', 'run', {}).check()
