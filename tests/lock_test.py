"""One process runs in a directory."""

import json
import os

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import lock


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
