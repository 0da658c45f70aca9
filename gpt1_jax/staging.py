"""Copies files from a bucket to this machine's disk, verified and cached.

Shards and archives are read at random, which needs a local disk.
"""

import base64
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpt1_jax import building, storage
from gpt1_jax.errors import RunError, UserError

STAGE_TO = '~/.cache/gpt1_jax'  # default folder for the copies


class _Object(NamedTuple):
  """An object in a bucket.

  Attributes:
    size: in bytes.
    md5: hexadecimal, or None if the bucket does not list it. MD5 detects
      accidental damage, not attacks.
  """

  size: int
  md5: str | None


def fetch(
  source: str,
  stage_to: str = STAGE_TO,
  check: Callable[[pathlib.Path], Any] | None = None,
) -> str:
  """Copies a file or folder from a bucket to this machine's disk, once.

  Processes on a machine share one copy: the first makes it, the others wait.
  The copy's folder name hashes the bucket's listing (sizes and MD5 sums), so
  that changed data is copied again.

  Args:
    source: a path in a bucket; of a local path, only a leading `~` is replaced.
    check: validates the copy before it is kept; raises if it is damaged.

  Returns:
    A local path with the same last component as `source`.

  Raises:
    UserError: the source is missing or damaged, or the disk is full.
  """
  if not storage.is_remote(source):
    return storage.expanded(source)
  top = os.fspath(storage.path(source)).removeprefix(storage.REMOTE)
  parent, _, last = top.rpartition('/')
  objects = _list_objects(top, parent)
  if not objects:
    raise UserError(f'{source}: no such file or folder in the bucket')
  key = hashlib.sha256(json.dumps([top, objects]).encode()).hexdigest()
  stage = pathlib.Path(storage.expanded(stage_to))
  copy = stage / f'{last}-{key[:20]}'
  try:
    stage.mkdir(parents=True, exist_ok=True)
    with (stage / f'{copy.name}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not _is_complete(copy, objects):
        storage.remove(copy)
        _check_room(source, stage, objects)
        with building.atomic_dir(copy) as incomplete:
          _download(parent, objects, incomplete)
          if check:
            check(incomplete / last)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UserError(
      f'{source}: cannot be copied to {stage} ({error.strerror}); choose '
      'another folder with --stage_to'
    ) from None
  return str(copy / last)


def _list_objects(top: str, parent: str) -> dict[str, _Object]:
  """Lists the files at or below a path, by name relative to `parent`."""
  found = {}
  for name, info in sorted(storage.filesystem().find(top, detail=True).items()):
    if not name.endswith('/'):  # an empty object that marks a folder
      md5 = info.get('md5Hash')
      found[name.removeprefix(parent).lstrip('/')] = _Object(
        info['size'], base64.b64decode(md5).hex() if md5 else None
      )
  return found


def _is_complete(folder: pathlib.Path, objects: Mapping[str, _Object]) -> bool:
  """Compares sizes; MD5 sums were verified before the folder was renamed."""
  return all(
    (folder / name).is_file() and (folder / name).stat().st_size == each.size
    for name, each in objects.items()
  )


def _check_room(
  source: str, stage: pathlib.Path, objects: Mapping[str, _Object]
) -> None:
  size = sum(each.size for each in objects.values())
  free = shutil.disk_usage(stage).free
  if size > free:
    raise RunError(
      f'{source}: its {size / 1e9:.1f} GB do not fit on the disk of {stage}, '
      f'which has {free / 1e9:.1f} GB free; free some space, or choose another '
      'folder with --stage_to'
    )
  line = f'{source}: copying {size / 1e6:,.1f} MB to {stage}'
  print(line, file=sys.stderr, flush=True)


def _download(
  parent: str, objects: Mapping[str, _Object], folder: pathlib.Path
) -> None:
  """Downloads objects and verifies their sizes and MD5 sums."""
  storage.filesystem().get(
    [f'{parent}/{name}' for name in objects],
    [str(folder / name) for name in objects],
  )
  for name, each in objects.items():
    with (folder / name).open('rb') as file:
      md5 = hashlib.file_digest(file, 'md5').hexdigest()
      size = file.seek(0, os.SEEK_END)
    if size != each.size or md5 != (each.md5 or md5):
      raise UserError(
        f'{storage.REMOTE}{parent}/{name}: its size or MD5 differs from the '
        "bucket's listing; upload the file again"
      )
