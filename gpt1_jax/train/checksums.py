"""Writes and verifies the checksums of a checkpoint's files.

checkpoints/<step>/checksums.json holds the size and the digest of every other
file. It is written before the checkpoint is committed, and verified before any
other file of the checkpoint is read.
"""

import base64
import concurrent.futures
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gpt1_jax import storage
from gpt1_jax.errors import UserError

CHECKSUMS = 'checksums.json'
_COMMIT = 'commit_success.txt'  # Orbax writes it last
# These mean damage; others, such as a refused permission, may be temporary.
_UNREADABLE = (
  errno.EIO, errno.EBADMSG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
  getattr(errno, 'EUCLEAN', errno.EIO),
)  # fmt: skip
_THREADS = 8  # in parallel: hashlib releases the GIL


@dataclasses.dataclass(frozen=True)
class _Checksum:
  """Checksum of a file.

  Attributes:
    bytes: size.
    kind: 'sha256'; for objects in a bucket 'md5', which the bucket computes.
    digest: hex.
  """

  bytes: int
  kind: str
  digest: str


def write(folder: storage.Path) -> None:
  """Writes checksums.json for the files of a complete but uncommitted folder.

  On a local disk, every file and folder is first flushed to the disk.
  """
  if isinstance(folder, pathlib.Path):
    found = {name: _seal(folder / name) for name in _names(folder)}
  else:
    found = _listed(folder)
  values = {name: dataclasses.asdict(each) for name, each in found.items()}
  storage.write_json(folder / CHECKSUMS, values)
  if isinstance(folder, pathlib.Path):
    _flush(folder / CHECKSUMS)
    for below, _, _ in os.walk(folder, topdown=False):
      flush_folder(pathlib.Path(below))


def damage(folder: storage.Path) -> str | None:
  """Describes the damage of a checkpoint in a few words; None if intact."""
  try:
    return _damage(folder)
  except OSError as error:
    if error.errno not in _UNREADABLE:
      raise
    return f'{pathlib.Path(error.filename or folder).name}: {error.strerror}'


def _damage(folder: storage.Path) -> str | None:
  try:
    expected = _read(folder / CHECKSUMS)
  except FileNotFoundError:
    return f'{CHECKSUMS} is missing'
  except (ValueError, TypeError, AttributeError, RecursionError):
    return f'{CHECKSUMS} is damaged'
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    faults = pool.map(
      lambda item: _fault(folder / item[0], item[1]), expected.items()
    )
    for name, fault in zip(expected, faults, strict=True):
      if fault:
        return f'{name}: {fault}'
  return None


def check(directory: storage.Path, steps: Sequence[int], step: int) -> None:
  """Raises an error if a checkpoint is damaged.

  Raises:
    UserError: it is damaged; the message lists those that are intact.
  """
  why = _damage_on_all_hosts(directory / str(step))
  if why is None:
    return
  intact = [
    str(other)
    for other in sorted(steps)
    if other != step and _damage_on_all_hosts(directory / str(other)) is None
  ]
  rest = 'no other is intact; restore it from a copy'
  if intact:
    rest = f'intact: {", ".join(intact)}; choose one with --step={intact[-1]}, '
    rest += f'or as {directory.parent}@{intact[-1]} in init_from and fork_from'
  raise UserError(f'{directory}/{step}: damaged ({why}); {rest}')


def latest_intact(
  directory: storage.Path, steps: Sequence[int], best: int | None
) -> tuple[int, dict[int, str]]:
  """Finds the latest intact checkpoint.

  Args:
    best: another checkpoint to check, or None.

  Returns:
    The latest intact step; and the damage of each damaged step, described.

  Raises:
    UserError: none is intact.
  """
  damaged = {}
  for step in sorted(steps, reverse=True):
    why = _damage_on_all_hosts(directory / str(step))
    if why is None:
      break
    damaged[step] = why
  else:
    listing = ', '.join(f'{step} ({why})' for step, why in damaged.items())
    raise UserError(
      f'{directory}: every checkpoint is damaged: {listing}; restore one from '
      'a copy, or use another --workdir'
    )
  if best is not None and best < step:
    why = _damage_on_all_hosts(directory / str(best))
    if why:
      damaged[best] = why
  return step, damaged


def set_aside(
  directory: storage.Path, damaged: Mapping[int, str], intact: int
) -> None:
  """Renames checkpoints to N.damaged, or removes them in a bucket; warns."""
  if jax.process_index() == 0:
    for step, why in damaged.items():
      print(
        f'warning: {directory}/{step}: damaged ({why}); set aside. Going on '
        f'from checkpoint {intact}, which is intact',
        file=sys.stderr,
        flush=True,
      )
      folder = directory / str(step)
      if isinstance(folder, pathlib.Path):
        aside = folder.with_name(f'{step}.damaged')
        storage.remove(aside)
        os.replace(folder, aside)
      else:
        storage.remove(folder)  # a bucket cannot rename
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('damaged checkpoints are set aside')


def _damage_on_all_hosts(folder: storage.Path) -> str | None:
  """Returns host 0's result of `damage` on every host."""
  if jax.process_count() == 1:
    return damage(folder)
  text = np.zeros(256, np.uint8)
  if jax.process_index() == 0:
    found = (damage(folder) or '').encode()[: len(text)]
    text[: len(found)] = np.frombuffer(found, np.uint8)
  text = multihost_utils.broadcast_one_to_all(text)
  return bytes(text).rstrip(b'\0').decode(errors='replace') or None


def flush_folder(folder: pathlib.Path) -> None:
  """Flushes the entries of a local folder to the disk."""
  descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _flush(file: pathlib.Path) -> None:
  with file.open('rb') as opened:
    os.fsync(opened.fileno())


def _seal(file: pathlib.Path) -> _Checksum:
  _flush(file)
  return _checksum(file, 'sha256')


def _names(folder: storage.Path) -> list[str]:
  """Returns the names of the files that have checksums, below a folder."""
  top = os.fspath(folder)
  names = (
    os.fspath(below / file).removeprefix(top).lstrip('/')
    for below, _, files in storage.walk(folder)
    for file in files
  )
  return sorted(name for name in names if name not in (CHECKSUMS, _COMMIT))


def _listed(folder: storage.Path) -> dict[str, _Checksum]:
  """Returns the checksums that a bucket lists, without reading its objects."""
  top = os.fspath(folder).removeprefix(storage.REMOTE)
  infos = storage.filesystem().find(top, detail=True)
  return {
    name: _Checksum(info['size'], 'md5', base64.b64decode(md5).hex())
    if (md5 := info.get('md5Hash'))
    else _checksum(folder / name, 'md5')
    for name in _names(folder)
    for info in [infos[f'{top}/{name}']]
  }


def _checksum(file: storage.Path, kind: str) -> _Checksum:
  with file.open('rb') as opened:
    digest = hashlib.file_digest(opened, kind)  # type: ignore[arg-type]
    return _Checksum(opened.tell(), kind, digest.hexdigest())


def _read(file: storage.Path) -> dict[str, _Checksum]:
  """Reads checksums.json; raises ValueError or similar if it is damaged."""
  if not file.is_file():
    raise FileNotFoundError(file)
  values: Any = json.loads(file.read_bytes())
  found = {name: _Checksum(**each) for name, each in values.items()}
  for name, each in found.items():
    if each.kind not in ('sha256', 'md5') or '..' in name.split('/'):
      raise ValueError(name)
  if not found:
    raise ValueError(file)
  return found


def _fault(file: storage.Path, expected: _Checksum) -> str | None:
  if not file.is_file():
    return 'missing'
  found = _checksum(file, expected.kind)
  if found.bytes != expected.bytes:
    return f'{found.bytes} bytes, {expected.bytes} expected'
  return None if found == expected else f'its {expected.kind} differs'
