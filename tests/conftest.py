"""Sets up eight CPU devices before any test imports jax; shares fixtures."""

import contextlib
import functools
import os
import pathlib
import shutil
import tempfile

from tests import QUICKLY_COMPILED

os.environ['XLA_FLAGS'] = (
  f'{QUICKLY_COMPILED} --xla_force_host_platform_device_count=8'
)
# launch/gpu_hour.py tests the kernels on its card.
os.environ['JAX_PLATFORMS'] = os.environ.get('TEST_PLATFORMS', 'cpu')
# Each worker compiles equal programs once, and so do the commands it starts.
os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import pytest


def pytest_unconfigure() -> None:
  """Deletes what this process has compiled."""
  shutil.rmtree(os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """Returns the folder of real books and tasks, or skips the test."""
  path = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'
  if not path.is_dir():
    pytest.skip('no real data: ../shared/data is not beside the repository')
  return path


@pytest.fixture(scope='session')
def archives(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Writes small archives of all tasks, with invented rows."""
  from tests.support import task_archives

  return task_archives.pack_all(tmp_path_factory.mktemp('archives'))


@pytest.fixture(scope='session')
def books(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Writes 24 short books, to read only."""
  from tests.support import books

  return books.write_books(tmp_path_factory.mktemp('books') / 'b', range(24))


@pytest.fixture
def ended():
  """Returns a function that takes a process and ends it after the test."""
  from tests.support import commands

  with contextlib.ExitStack() as stack:
    yield lambda process: stack.enter_context(commands.ending(process))


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Writes a run of a network that has learned nothing, to read only."""
  from tests.support import finetuning

  return finetuning.untrained_run(tmp_path_factory.mktemp('runs'))


@pytest.fixture
def configure(pretrained: pathlib.Path):
  """Returns (task, path, changes by section__key) → plain configuration."""
  from tests.support import finetuning

  return functools.partial(finetuning.configuration, pretrained)
