"""Tests that damaged checkpoints are named, refused, and set aside."""

import contextlib
import json
import os
import random
import shutil
import sys
from unittest import mock

import jax.numpy as jnp
import mutations
import numpy as np
import pytest

import gpt1_jax
from gpt1_jax.errors import RunError, UserError
from gpt1_jax.interop import conversion
from gpt1_jax.tasks.zero_shot import evaluation
from gpt1_jax.train import (
  belonging,
  checkpoint,
  checksums,
  held_out,
  history,
  lock,
  run as run_lib,
  saving,
)
from gpt1_jax.train.step import TrainState
from tests.support import commands, networks, run_folders
from tests.support.refusals import assert_refused

COMMIT = 'commit_success.txt'  # a note; its content means nothing
STATE = {'params': {'w': np.arange(5000, dtype=np.float32)}, 'm': np.ones(7)}


@contextlib.contextmanager
def opened(workdir, keep_best=False):
  found = checkpoint.Checkpoints(str(workdir), keep=3, keep_best=keep_best)
  with contextlib.closing(found):
    yield found


@pytest.fixture(scope='module')
def intact(tmp_path_factory):
  """A run with checkpoints 4 and 8."""
  workdir = tmp_path_factory.mktemp('run')
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  with opened(workdir) as checkpoints:
    for step in (4, 8):
      checkpoints.save(step, jax_state(step), meta)
      checkpoints.wait()
  return workdir


def jax_state(step):
  weights = {'w': jnp.asarray(STATE['params']['w'] + step)}
  return {'params': weights, 'step': np.int32(step)}


def test_no_damage_goes_unnoticed(intact, tmp_path, capsys):
  """Single bits, zeros, cut and lost files, in every file of a checkpoint."""
  rng = random.Random(0)
  folder = intact / 'checkpoints' / '8'
  names = [f.relative_to(folder) for f in folder.rglob('*') if f.is_file()]
  assert len(names) > 10
  for name in names:
    whole = (folder / name).read_bytes()
    for _, content in mutations.damages(whole, rng, bits=3):
      shutil.rmtree(tmp_path / 'run', ignore_errors=True)
      run = shutil.copytree(intact, tmp_path / 'run')
      file = run / 'checkpoints' / '8' / name
      file.unlink() if content is None else file.write_bytes(content)
      if str(name) == COMMIT:
        found = checkpoint.read(str(run))
        np.testing.assert_array_equal(
          found.params['w'], STATE['params']['w'] + 8
        )
        continue
      with pytest.raises(UserError, match=r'checkpoints/8: damaged .*--step=4'):
        checkpoint.read(str(run))
      assert checkpoint.read(str(run), 4).step == 4
      with opened(run) as checkpoints:
        assert checkpoints.latest_intact() == 4
        assert checkpoint.steps(str(run)) == [4]
      assert 'checkpoints/8: damaged' in capsys.readouterr().err
      assert (run / 'checkpoints' / '8.damaged').is_dir()


@pytest.mark.parametrize('name', ['run [1]', 'r*', 'lr?', 'a\\b'])
def test_no_run_begins_where_orbax_cannot_save(tmp_path, name):
  """A checkpoint in `run [1]` was committed without its arrays."""
  start = lock.held(str(tmp_path / name))
  with pytest.raises(UserError, match='Orbax takes for a pattern'), start:
    pass
  with pytest.raises(UserError, match='Orbax takes for a pattern'):
    checkpoint.Checkpoints(str(tmp_path / name), keep=1, keep_best=False)
  assert not list(tmp_path.iterdir())


def test_a_run_may_be_named_like_a_step_of_another(intact, tmp_path):
  run = shutil.copytree(intact, tmp_path / 'run@4')
  assert checkpoint.split_step(str(run)) == (str(run), None)
  assert checkpoint.split_step(f'{run}@8') == (str(run), 8)
  run.rename(tmp_path / 'run')
  assert checkpoint.split_step(str(run)) == (str(tmp_path / 'run'), 4)


@pytest.mark.parametrize('name', [checksums.CHECKSUMS, 'meta/metadata'])
@pytest.mark.parametrize('target', ['.', '/proc/self/mem', '8'])
def test_a_file_that_the_disk_cannot_read_is_damaged(
  intact, tmp_path, name, target
):
  """A folder in its place, an input/output error, a loop of links."""
  if target.startswith('/proc') and sys.platform != 'linux':
    pytest.skip('needs /proc')
  run = shutil.copytree(intact, tmp_path / 'run')
  file = run / 'checkpoints' / '8' / name
  file.unlink()
  file.symlink_to(file.name if target == '8' else target)
  with pytest.raises(UserError, match=r'checkpoints/8: damaged .*--step=4'):
    checkpoint.read(str(run))
  with opened(run) as checkpoints:
    assert checkpoints.latest_intact() == 4


@pytest.mark.parametrize('name', ['meta/metadata', 'checksums.json'])
def test_a_pipe_in_place_of_a_file_is_damage(intact, tmp_path, name):
  run = shutil.copytree(intact, tmp_path / 'run')
  step = checkpoint.steps(str(run))[-1]
  file = run / 'checkpoints' / str(step) / name
  file.unlink()
  os.mkfifo(file)
  with assert_refused(f'damaged ({name}'):
    checkpoint.read(str(run), step)


def test_a_start_is_recorded_below_a_damaged_row(tmp_path):
  file = tmp_path / history.HISTORY
  file.write_bytes(b'{"step": 1}\n{"st\xff')
  history._append(str(tmp_path), {'step': 3})
  assert file.read_bytes() == b'{"step": 1}\n{"st\xff\n{"step": 3}\n'


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
  """Otherwise 40 updates would count as done after 4."""
  state = TrainState(jnp.asarray(4), {'w': jnp.ones(3)}, None)
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  with opened(tmp_path / 'run') as checkpoints:
    checkpoints.save(4, state, meta)
    checkpoints.wait()
  folder = tmp_path / 'run' / 'checkpoints'
  (folder / '4').rename(folder / '40')
  with opened(tmp_path / 'run') as checkpoints:
    assert checkpoints.latest_intact() == 40
    with pytest.raises(UserError, match=r'/40: was renamed; .* update 4'):
      checkpoints.restore(40, state)
  with pytest.raises(UserError, match=r'/40: was renamed; .* update 4'):
    checkpoint.read(str(tmp_path / 'run'))


def test_threads_of_a_failed_read_are_silent(tmp_path):
  """They call an event loop that is closed, also after the error."""
  arrays = {str(i): jnp.full(60_000, float(i)) for i in range(40)}
  with opened(tmp_path) as checkpoints:
    checkpoints.save(
      8,
      {'params': arrays, 'step': np.int32(8)},
      checkpoint.CheckpointMeta(networks.GPT_CONFIG, 't'),
    )
  folder = tmp_path / 'checkpoints' / '8'
  for file in (folder / 'state' / 'd').iterdir():
    file.unlink()
  (folder / checksums.CHECKSUMS).unlink()
  checksums.write(folder)
  code = """import sys, time
from gpt1_jax.errors import UserError
from gpt1_jax.train import checkpoint
for _ in range(5):
  try:
    checkpoint.read(sys.argv[1])
  except UserError as error:
    print(error)
  time.sleep(0.2)
"""
  done = commands.run('-c', code, tmp_path)
  assert done.stderr == ''
  assert done.stdout.count('checkpoints/8: does not fit') == 5
  assert len(done.stdout.splitlines()) == 5


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('_CHECKPOINT_METADATA', {'metrics': 1.5}, 'does not fit'),
    ('meta/metadata', {'model': None}, 'does not fit'),
    ('meta/metadata', {'x': 1}, r"does not fit .*'model'"),
    ('state/_METADATA', [], 'does not fit'),
  ],
)
def test_what_another_program_wrote_is_named(
  intact, tmp_path, name, content, words
):
  """JSON of a wrong shape, without and with right checksums."""
  run = shutil.copytree(intact, tmp_path / 'run')
  folder = run / 'checkpoints' / '8'
  (folder / name).write_text(json.dumps(content))
  with pytest.raises(UserError, match=r'checkpoints/8: damaged .*--step=4'):
    checkpoint.read(str(run))
  resumed = shutil.copytree(run, tmp_path / 'resumed')
  with opened(resumed) as checkpoints:
    assert checkpoints.latest_intact() == 4
  (folder / checksums.CHECKSUMS).unlink()
  checksums.write(folder)
  with pytest.raises(UserError, match=f'checkpoints/8: {words}'):
    checkpoint.read(str(run))


@pytest.mark.parametrize('junk', ['empty', 'half', 'file', 'words'])
def test_foreign_entries_in_checkpoints_are_ignored(intact, tmp_path, junk):
  run = shutil.copytree(intact, tmp_path / 'run')
  later = run / 'checkpoints' / '12'
  if junk == 'half':
    shutil.copytree(run / 'checkpoints' / '8' / 'state', later / 'state')
  elif junk == 'file':
    later.write_text('12')
  else:
    later.with_name('latest' if junk == 'words' else '12').mkdir()
  with opened(run) as checkpoints:
    assert checkpoints.latest_intact() == 8
    checkpoints.save(
      12, jax_state(12), checkpoint.CheckpointMeta(networks.GPT_CONFIG, 't')
    )
  assert checkpoint.read(str(run)).step == 12


def test_a_run_without_any_intact_checkpoint(intact, tmp_path):
  run = shutil.copytree(intact, tmp_path / 'run')
  for step in (4, 8):
    (run / 'checkpoints' / str(step) / checksums.CHECKSUMS).unlink()
  with pytest.raises(UserError, match='no other is intact'):
    checkpoint.read(str(run))
  with (
    opened(run) as checkpoints,
    pytest.raises(UserError, match=r'every checkpoint is damaged: 8 .*, 4 '),
  ):
    checkpoints.latest_intact()
  assert checkpoint.steps(str(run)) == [4, 8]


FILLS = """
import contextlib, resource, sys
import jax.numpy as jnp
from gpt1_jax import cli
from gpt1_jax.train import checkpoint
from tests.support import networks

folder = sys.argv.pop()

def main():
  arrays = {str(i): jnp.full(60_000, float(i)) for i in range(40)}
  state = {'params': arrays, 'step': jnp.asarray(1)}
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  saved = checkpoint.Checkpoints(folder, keep=2, keep_best=False)
  with contextlib.closing(saved):
    saved.save(1, state, meta)
    saved.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    saved.save(2, state, meta)
cli.run(main)
"""


def test_threads_of_a_save_on_a_full_disk_are_silent(tmp_path):
  """Many arrays: TensorStore still writes some when others have failed."""
  done = commands.run_forked(FILLS, tmp_path / 'run')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'error: {tmp_path}/run/checkpoints: the checkpoint')
  assert 'cannot be saved: the disk is full; free some space' in line
  assert checkpoint.read(str(tmp_path / 'run')).step == 1


DRAWS = """
import pathlib, resource, sys
from gpt1_jax import cli
from gpt1_jax.train import boards

folder = pathlib.Path(sys.argv.pop())

def main():
  shown = boards.Boards(folder, 0, None)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
  for step in range(1_000):
    shown.scalars(step, {'loss': 1.0, 'learning_rate': 1e-3})
cli.run(main)
"""


def test_curves_on_a_full_disk_stop_the_run(tmp_path):
  """A writer in a thread would end silently, and training wait for it."""
  done = commands.run_forked(DRAWS, tmp_path)
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line == (
    f'error: File too large: {tmp_path}/tensorboard; free some disk space and '
    'run the command again'
  )
  (file,) = (tmp_path / 'tensorboard').iterdir()
  assert file.stat().st_size == 10_000


def test_a_checkpoint_is_flushed_to_the_disk(tmp_path, monkeypatch):
  flushed, fsync = set(), os.fsync

  def note(descriptor):
    fsync(descriptor)
    flushed.add(os.fstat(descriptor).st_ino)

  monkeypatch.setattr(os, 'fsync', note)
  with opened(tmp_path) as checkpoints:
    checkpoints.save(
      4, jax_state(4), checkpoint.CheckpointMeta(networks.GPT_CONFIG, 't')
    )
  folder = tmp_path / 'checkpoints'
  found = [folder, *folder.rglob('*')]
  assert len(found) > 10
  missed = [path for path in found if path.stat().st_ino not in flushed]
  assert {path.name for path in missed} <= {COMMIT}


@pytest.mark.parametrize(
  ('name', 'is_refused'),
  [
    *((f'train.{x}', False) for x in ('num_steps', 'log_every', 'eval_every')),
    *((f'train.{x}', False) for x in ('checkpoint_every', 'microbatches')),
    ('mesh.fsdp', False),
    ('model.dtype', False),
    ('data.path', False),
    ('train.seed', True),
    ('data.batch_size', True),
    ('model.n_layer', True),
    ('model.n_head', True),
    ('model.units', True),
    ('init_from', True),
  ],
)
def test_settings_that_may_change_in_a_run(tmp_path, name, is_refused):
  section, _, key = name.rpartition('.')
  first, now = ({section: {key: x}} if section else {key: x} for x in (8, 9))
  run_lib.start(str(tmp_path), 'pretrain', first, {})
  if is_refused:
    with pytest.raises(UserError, match=f'a different {name};') as refusal:
      run_lib.changes(str(tmp_path), 'pretrain', now)
    can_fork = not name.startswith('model.')  # else no weights fit
    assert ('--fork_from=' in str(refusal.value)) == can_fork
  else:
    found = run_lib.changes(str(tmp_path), 'pretrain', now)
    assert found == {name: [8, 9]}


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
  bad = TrainState(jnp.int32(3), {'w': jnp.array([1.0, jnp.inf])}, jnp.zeros(2))
  run = mock.MagicMock(workdir=str(tmp_path))
  saver = saving.Saver(None, run, mock.Mock(), 0)
  with pytest.raises(RunError, match='after update 3 are not finite'):
    saver.save(3, bad)


def test_a_run_stops_if_its_directory_is_moved(tmp_path, monkeypatch):
  """A save would make another directory, without a configuration."""
  workdir = tmp_path / 'run'
  with lock.held(str(workdir)):
    (workdir / 'config.json').touch()
    (workdir / lock.LOCK).rename(tmp_path / 'kept')  # a careless `rm lock`
    lock.check(str(workdir))
    (workdir / lock.LOCK).write_text(lock._Holder('h', 7, 's', 't').text())
    with pytest.raises(UserError, match='process 7 on h runs here'):
      lock.check(str(workdir))
    workdir.rename(tmp_path / 'elsewhere')
    saver = saving.Saver(
      mock.Mock(), mock.MagicMock(workdir=str(workdir)), mock.Mock(), 0
    )
    for locked in ({}, lock._files):  # of another host, and of host 0
      monkeypatch.setattr(lock, '_files', locked)
      with pytest.raises(RunError, match='was moved or removed'):
        saver.save(3, None)
  assert (tmp_path / 'elsewhere' / lock.LOCK).exists()  # of another process
  assert not workdir.exists()


def test_a_damaged_best_checkpoint_is_set_aside(tmp_path):
  meta = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
  with opened(tmp_path, keep_best=True) as checkpoints:
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.7)):
      checkpoints.save(step, jax_state(step), meta)
      checkpoints.rank(step, score)
  (tmp_path / 'checkpoints' / '2' / 'state' / 'manifest.ocdbt').unlink()
  with pytest.raises(UserError, match='intact: 1, 3'):
    checkpoint.read(str(tmp_path))
  with opened(tmp_path, keep_best=True) as checkpoints:
    assert checkpoints.latest_intact() == 3
  assert checkpoint.read(str(tmp_path)).step == 3


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('[]', 'it must map steps to scores'),
    ('{"x": 1}', 'it must map steps to scores'),
    ('{"8": [1]}', 'it must map steps to scores'),
    ('{"8": 1%s}' % ('0' * 400), 'it must map steps to scores'),
    ('{"4": 0.5, "8": NaN}', 'it must map steps to scores'),
    ('{"8": 1', 'not valid JSON'),
    ('[' * 100_000, 'not valid JSON'),
  ],
)
def test_a_damaged_ranking_is_named(intact, tmp_path, content, words):
  run = shutil.copytree(intact, tmp_path / 'run')
  (run / 'ranking.json').write_text(content)
  with pytest.raises(UserError, match=f'ranking.json: damaged, {words}'):
    checkpoint.read(str(run))


@pytest.mark.parametrize('content', ['[]', '{}', '{"command": 1}', '"x"'])
def test_a_damaged_config_is_named(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(UserError, match=r'config\.json: damaged'):
    run_lib.load(str(tmp_path))


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('{"command": "pretrain", "conf', 'damaged, not valid JSON'),
    (
      '{"command": "", "config": {}, "tokenizer_fingerprint": "b"}',
      'its tokenizer differs from the checkpoint',
    ),
  ],
)
def test_a_model_beside_a_wrong_config_is_refused(
  pretrained, tmp_path, content, words
):
  run = shutil.copytree(pretrained, tmp_path / 'run')
  gpt1_jax.load(run)
  (run / 'config.json').write_text(content)
  with pytest.raises(UserError, match=rf'config\.json: {words}'):
    gpt1_jax.load(run)


def converted_by(run, out):
  """Yields functions that read the config.json and scores.json of a run."""
  yield lambda: conversion.to_huggingface(run, out)
  yield lambda: conversion.to_slim_run(run, out)


def with_files(pretrained, run):
  """Copies a checkpoint to a folder with config.json and scores.json."""
  shutil.copytree(pretrained, run)
  run_folders.pretraining(run)
  meta = checkpoint.read(str(run)).meta
  header = json.loads((run / 'config.json').read_text())
  header['tokenizer_fingerprint'] = meta.tokenizer_fingerprint
  (run / 'config.json').write_text(json.dumps(header))
  return header


@pytest.mark.parametrize(
  'changed',
  [
    {'commit': 3},
    {'model': []},
    {'parameters': '5'},
    {'num_steps': None},
    {'forked_from': {'run': 3, 'step': 1}},
    {'config': {}},
    {'config': {'data': 3}},
  ],
)
def test_a_config_of_another_shape_is_refused(pretrained, tmp_path, changed):
  run, out = tmp_path / 'run', tmp_path / 'out'
  file = run / 'config.json'
  header = with_files(pretrained, run)
  file.write_text(json.dumps({**header, **changed}))
  for read in (
    *converted_by(run, out),
    lambda: held_out.shards_of(str(run)),
    lambda: evaluation.tokens_seen(str(run), 1),
  ):
    with assert_refused(f'{file}: not written by gpt1_jax, or damaged'):
      read()
  assert not out.exists()


@pytest.mark.parametrize('content', ['[]', '{}', '{"step": 1}', '3'])
def test_scores_of_another_shape_are_refused(pretrained, tmp_path, content):
  run, out = tmp_path / 'run', tmp_path / 'out'
  with_files(pretrained, run)
  (run / 'scores.json').write_text(content)
  for read in converted_by(run, out):
    with assert_refused('scores.json: not written by gpt1_jax, or damaged'):
      read()
  assert not out.exists()


@pytest.mark.parametrize(
  ('changed', 'words'),
  [
    ({'tokenizer_fingerprint': 'b'}, 'holds a run with a different tokenizer'),
    ({'data_fingerprint': 'b'}, r'holds a run on other shards \(books\)'),
    ({}, None),
  ],
)
def test_tokenizer_shards_and_run_must_match(tmp_path, changed, words):
  header = run_lib.header(
    'pretrain',
    {'data': {'path': 'books'}},
    {'tokenizer_fingerprint': 'a', 'data_fingerprint': 'a'},
  )
  belonging.check(str(tmp_path), header)
  run_lib.record(str(tmp_path), header)
  refused = (
    pytest.raises(UserError, match=words) if words else contextlib.nullcontext()
  )
  with refused:
    belonging.check(str(tmp_path), {**header, **changed})


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    (['meta.json', 'train-00000.bin'], 'holds prepared data (meta.json)'),
    (['results.json', 'rte/'], 'holds the runs of several tasks (results.json'),
    (['summary.json'], 'holds the runs of a sweep'),
    (['model.safetensors'], 'holds a Hugging Face folder'),
    (['b.txt', 'a.txt'], 'holds other files or folders, such as a.txt'),
    (['mini/', 'rte/'], 'holds other files or folders, such as mini'),
    (['checkpoints/7/'], 'its config.json is missing; restore it'),
  ],
)
def test_a_run_begins_in_no_folder_of_another_kind(tmp_path, names, words):
  for name in names:
    path = tmp_path / name
    path.mkdir(parents=True) if name.endswith('/') else path.touch()
  with assert_refused(words, start=tmp_path):
    belonging.check(str(tmp_path), {})


def test_a_run_begins_beside_what_a_killed_start_and_a_log_leave(tmp_path):
  for name in ('lock', 'config.json.1a2b.tmp', 'log.txt', 'slurm-7.out'):
    (tmp_path / name).touch()
  (tmp_path / 'checkpoints').mkdir()
  belonging.check(str(tmp_path), {})
  (tmp_path / 'book.txt').touch()
  with assert_refused('holds other files or folders, such as book.txt'):
    belonging.check(str(tmp_path), {})


def test_the_config_of_a_hugging_face_folder_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "openai-gpt"}')
  with assert_refused('belongs to a Hugging Face folder, not a run'):
    run_lib.load(str(tmp_path))
