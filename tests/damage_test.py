"""Tests that damaged checkpoints are named, refused, and set aside."""

import json
import os
import random
import shutil
import sys

import jax.numpy as jnp
import mutations
import numpy as np
import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import checkpoint, checksums
from gpt1_jax.train.step import TrainState
from tests.support import checkpoints, commands
from tests.support.refusals import assert_refused


@pytest.fixture(scope='module')
def intact(tmp_path_factory):
  """A run with checkpoints 4 and 8."""
  workdir = tmp_path_factory.mktemp('run')
  with checkpoints.opened(workdir) as saved:
    for step in (4, 8):
      saved.save(step, checkpoints.state(step), checkpoints.META)
      saved.wait()
  return workdir


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
      if str(name) == checkpoints.COMMIT:
        found = checkpoint.read(str(run))
        np.testing.assert_array_equal(
          found.params['w'], checkpoints.WEIGHTS + 8
        )
        continue
      with pytest.raises(UserError, match=r'checkpoints/8: damaged .*--step=4'):
        checkpoint.read(str(run))
      assert checkpoint.read(str(run), 4).step == 4
      with checkpoints.opened(run) as saved:
        assert saved.latest_intact() == 4
        assert checkpoint.steps(str(run)) == [4]
      assert 'checkpoints/8: damaged' in capsys.readouterr().err
      assert (run / 'checkpoints' / '8.damaged').is_dir()


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
  with checkpoints.opened(run) as saved:
    assert saved.latest_intact() == 4


@pytest.mark.parametrize('name', ['meta/metadata', 'checksums.json'])
def test_a_pipe_in_place_of_a_file_is_damage(intact, tmp_path, name):
  run = shutil.copytree(intact, tmp_path / 'run')
  step = checkpoint.steps(str(run))[-1]
  file = run / 'checkpoints' / str(step) / name
  file.unlink()
  os.mkfifo(file)
  with assert_refused(f'damaged ({name}'):
    checkpoint.read(str(run), step)


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
  """Otherwise 40 updates would count as done after 4."""
  state = TrainState(jnp.asarray(4), {'w': jnp.ones(3)}, None)
  with checkpoints.opened(tmp_path / 'run') as saved:
    saved.save(4, state, checkpoints.META)
    saved.wait()
  folder = tmp_path / 'run' / 'checkpoints'
  (folder / '4').rename(folder / '40')
  with checkpoints.opened(tmp_path / 'run') as saved:
    assert saved.latest_intact() == 40
    with pytest.raises(UserError, match=r'/40: was renamed; .* update 4'):
      saved.restore(40, state)
  with pytest.raises(UserError, match=r'/40: was renamed; .* update 4'):
    checkpoint.read(str(tmp_path / 'run'))


def test_threads_of_a_failed_read_are_silent(tmp_path):
  """They call an event loop that is closed, also after the error."""
  arrays = {str(i): jnp.full(60_000, float(i)) for i in range(40)}
  with checkpoints.opened(tmp_path) as saved:
    saved.save(
      8,
      {'params': arrays, 'step': np.int32(8)},
      checkpoints.META,
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
  with checkpoints.opened(resumed) as saved:
    assert saved.latest_intact() == 4
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
  with checkpoints.opened(run) as saved:
    assert saved.latest_intact() == 8
    saved.save(12, checkpoints.state(12), checkpoints.META)
  assert checkpoint.read(str(run)).step == 12


def test_a_run_without_any_intact_checkpoint(intact, tmp_path):
  run = shutil.copytree(intact, tmp_path / 'run')
  for step in (4, 8):
    (run / 'checkpoints' / str(step) / checksums.CHECKSUMS).unlink()
  with pytest.raises(UserError, match='no other is intact'):
    checkpoint.read(str(run))
  with (
    checkpoints.opened(run) as saved,
    pytest.raises(UserError, match=r'every checkpoint is damaged: 8 .*, 4 '),
  ):
    saved.latest_intact()
  assert checkpoint.steps(str(run)) == [4, 8]


def test_a_damaged_best_checkpoint_is_set_aside(tmp_path):
  with checkpoints.opened(tmp_path, keep_best=True) as saved:
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.7)):
      saved.save(step, checkpoints.state(step), checkpoints.META)
      saved.rank(step, score)
  (tmp_path / 'checkpoints' / '2' / 'state' / 'manifest.ocdbt').unlink()
  with pytest.raises(UserError, match='intact: 1, 3'):
    checkpoint.read(str(tmp_path))
  with checkpoints.opened(tmp_path, keep_best=True) as saved:
    assert saved.latest_intact() == 3
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


def test_a_run_may_be_named_like_a_step_of_another(intact, tmp_path):
  run = shutil.copytree(intact, tmp_path / 'run@4')
  assert checkpoint.split_step(str(run)) == (str(run), None)
  assert checkpoint.split_step(f'{run}@8') == (str(run), 8)
  run.rename(tmp_path / 'run')
  assert checkpoint.split_step(str(run)) == (str(tmp_path / 'run'), 4)
