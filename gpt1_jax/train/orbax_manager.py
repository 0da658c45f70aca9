"""Sets up Orbax's checkpoint manager: storage format, commit, log level.

Before a checkpoint is committed, its checksums are written and, on a local
disk, its files are flushed.
"""

import asyncio
import contextlib
import functools
import logging as std_logging
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.path import atomicity

from gpt1_jax import memory, storage
from gpt1_jax.errors import (
  DISK_FULL,
  SAYS_DISK_FULL,
  RunError,
  UserError,
  first_line,
)
from gpt1_jax.train import checksums

_FULL = 'the disk is full; free some space'
_lasting: list[contextlib.ExitStack] = []  # see `saving`


class _OnDisk(atomicity.AtomicRenameTemporaryPath):
  """Commits by renaming the folder."""

  async def finalize(self) -> None:
    await _seal(self)
    await super().finalize()
    if _is_step(self):
      checksums.flush_folder(pathlib.Path(self.get_final()).parent)


class _InBucket(atomicity.CommitFileTemporaryPath):
  """Commits by writing commit_success.txt."""

  async def finalize(self) -> None:
    await _seal(self)
    await super().finalize()


def _is_step(path: _OnDisk | _InBucket) -> bool:
  """Returns True for a checkpoint, False for an item such as its state."""
  return bool(path.get_final().name.isdigit())


async def _seal(path: _OnDisk | _InBucket) -> None:
  """Writes the checksums; afterwards only the commit may write files."""
  if not _is_step(path):
    return
  store = path._checkpoint_metadata_store
  if store:  # it would add the commit's time to a file that has a checksum
    await asyncio.to_thread(store.wait_until_finished)
    path._checkpoint_metadata_store = None
  await asyncio.to_thread(checksums.write, storage.path(path.get()))


class _Manager(ocp.CheckpointManager):
  """Leaves preemption to `pulse`, which counts calls instead of updates."""

  def reached_preemption(self, step: int) -> bool:
    del step
    return False

  def _load_checkpoint_infos(self, skip_metadata_read: bool = True) -> Any:
    """Lists the checkpoints without reading what is not verified yet."""
    del skip_metadata_read
    return super()._load_checkpoint_infos(skip_metadata_read=True)


def create(directory: storage.Path, **options: Any) -> ocp.CheckpointManager:
  """Creates a manager for a folder of checkpoints.

  Returns once what interrupted saves left is removed. Orbax removes it in a
  thread, which fails if the folder is removed, or a checkpoint renamed, before
  it ends.
  """
  is_local = isinstance(directory, pathlib.Path)
  manager = _Manager(
    directory,
    options=ocp.CheckpointManagerOptions(
      temporary_path_class=_OnDisk if is_local else _InBucket, **options
    ),
    item_handlers={
      # Compression saves 8 % of disk space but multiplies the CPU time of a
      # save, which slows a training step on a CPU.
      'state': ocp.PyTreeCheckpointHandler(use_compression=False),
      'meta': ocp.JsonCheckpointHandler(),
    },
  )
  manager._maybe_await_cleanup_tmp_directory()
  return manager


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Silences Orbax's log and threads within the context.

  An error in a thread is raised again by the next call of the manager.
  """
  verbosity, hook = logging.get_verbosity(), threading.excepthook
  _ignore_late_results()
  logging.set_verbosity(logging.FATAL)
  threading.excepthook = lambda _: None
  try:
    yield
  finally:
    threading.excepthook = hook
    logging.set_verbosity(verbosity)


def _ignore_late_results() -> None:
  """Drops, for good, what is printed of the other arrays after an error.

  When one array cannot be read or saved, Orbax closes its event loop. The tasks
  of the other arrays are never awaited, and TensorStore's threads still give
  them their results.
  """
  std_logging.getLogger('asyncio').addFilter(_is_foreign)
  if getattr(sys.unraisablehook, 'func', None) is not _report:
    sys.unraisablehook = functools.partial(_report, sys.unraisablehook)


def _is_foreign(record: std_logging.LogRecord) -> bool:
  message = record.getMessage()
  return 'orbax' not in message and 'tensorstore' not in message


def _report(
  hook: Callable[['sys.UnraisableHookArgs'], Any],
  unraised: 'sys.UnraisableHookArgs',
) -> None:
  if str(unraised.exc_value) != 'Event loop is closed':
    hook(unraised)


@contextlib.contextmanager
def reading(directory: storage.Path, step: int) -> Iterator[None]:
  """Turns errors in reading a checkpoint's content into one-line UserErrors."""
  try:
    yield
  except (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
    *(FileNotFoundError, UserError),
  ) as error:
    raise UserError(
      f'{directory}/{step}: does not fit this configuration or is damaged '
      f'({first_line(error)[:300]})'
    ) from error


@contextlib.contextmanager
def saving(
  directory: storage.Path, silence: contextlib.ExitStack
) -> Iterator[None]:
  """Raises RunError, in one line, if a save fails within the context.

  Args:
    silence: holds `quiet`, which then lasts: the threads of a save that has
      failed may continue for a while.
  """
  try:
    yield
  except (OSError, ValueError, RuntimeError, MemoryError) as error:
    _lasting.append(silence.pop_all())
    why = memory.explain_shortage(error) or ' '.join(str(error).split())
    numbered = isinstance(error, OSError) and error.errno in DISK_FULL
    if numbered or SAYS_DISK_FULL.search(why):
      why = _FULL
    raise RunError(
      f'{directory}: the checkpoint cannot be saved: {why[:400]}; earlier '
      'checkpoints are intact, and the same command continues from the latest'
    ) from None
