"""One process runs in a directory, which stays where it is."""

import json
import os
from unittest import mock

import pytest

from gpt1_jax.errors import RunError, UserError
from gpt1_jax.train import checkpoint, lock, saving


def test_a_lock_in_a_bucket_is_refused_while_its_holder_writes(tmp_path):
  """The object's protocol, on files, as if another host had written it."""
  path = tmp_path / lock.LOCK
  holder = lock._Stamp('run', path, 0.2)
  holder._mine = lock._Holder('elsewhere', 1, 'today', 'token')
  with holder, pytest.raises(UserError, match='process 1 on elsewhere runs'):
    lock._Stamp('run', path, 0.2).__enter__()
  assert not path.exists()
  path.write_text(holder._mine.text())  # of a process that was killed
  with lock._Stamp('run', path, 0.2):
    assert json.loads(path.read_text())['process'] == os.getpid()
  assert not path.exists()


@pytest.mark.parametrize('name', ['run [1]', 'r*', 'lr?', 'a\\b'])
def test_no_run_begins_where_orbax_cannot_save(tmp_path, name):
  """A checkpoint in `run [1]` was committed without its arrays."""
  start = lock.held(str(tmp_path / name))
  with pytest.raises(UserError, match='Orbax takes for a pattern'), start:
    pass
  with pytest.raises(UserError, match='Orbax takes for a pattern'):
    checkpoint.Checkpoints(str(tmp_path / name), keep=1, keep_best=False)
  assert not list(tmp_path.iterdir())


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
