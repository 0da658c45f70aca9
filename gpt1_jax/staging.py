"""Copies of a bucket's files on this machine's disk, checked and used again.

Shards are mapped into memory and read at random, and archives are read by their
index: both want a disk.
"""

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from gpt1_jax import storage
from gpt1_jax.errors import UserError

STAGE_TO = '~/.cache/gpt1_jax'  # the default folder of copies


@dataclasses.dataclass(frozen=True)
class _Object:
  """A file in a bucket: bytes, and MD5 in hexadecimal where the bucket has it.

  MD5 detects accidents, not attacks.
  """

  size: int
  md5: str | None


def fetch(
  source: str,
  stage_to: str = STAGE_TO,
  check: Callable[[pathlib.Path], Any] | None = None,
) -> str:
  """Copies a file or folder from a bucket to this machine's disk, once.

  The processes of a machine share one copy: the first makes it, the others
  wait. The copy's folder is named after the listing of the bucket (sizes and
  MD5 sums), so that changed data is copied again.

  Args:
    source: local (returned as it is), or in a bucket.
    stage_to: folder that holds the copies.
    check: called with the copy before it is kept; raises if it is damaged.

  Returns:
    A local path whose last part is that of `source`.

  Raises:
    UserError: the source is missing or damaged, or the disk has no room.
  """
  if not storage.is_remote(source):
    return source
  top = os.fspath(storage.path(source)).removeprefix(storage.REMOTE)
  parent, _, last = top.rpartition('/')
  objects = _list_objects(top, parent)
  if not objects:
    raise UserError(f'{source}: no such file or folder in the bucket')
  listing = {name: dataclasses.astuple(each) for name, each in objects.items()}
  key = hashlib.sha256(json.dumps([top, listing]).encode()).hexdigest()
  stage = pathlib.Path(stage_to).expanduser()
  copy = stage / f'{last}-{key[:20]}'
  try:
    stage.mkdir(parents=True, exist_ok=True)
    with (stage / f'{copy.name}.lock').open('w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not _is_complete(copy, objects):
        storage.remove(copy)
        _check_room(source, stage, objects)
        with storage.atomic_dir(copy) as incomplete:
          _download(parent, objects, incomplete)
          if check:
            check(incomplete / last)
  except (PermissionError, NotADirectoryError, FileExistsError) as error:
    raise UserError(
      f'{source}: cannot be copied to {stage} ({error.strerror}); name another '
      'folder with --stage_to'
    ) from None
  return str(copy / last)


def _list_objects(top: str, parent: str) -> dict[str, _Object]:
  """Lists the files at or below a path, named relative to its parent."""
  found = {}
  for name, info in sorted(storage.filesystem().find(top, detail=True).items()):
    if not name.endswith('/'):  # an empty object that marks a folder
      md5 = info.get('md5Hash')
      found[name.removeprefix(parent).lstrip('/')] = _Object(
        info['size'], base64.b64decode(md5).hex() if md5 else None
      )
  return found


def _is_complete(folder: pathlib.Path, objects: Mapping[str, _Object]) -> bool:
  """Compares sizes; the sums were compared before the folder got its name."""
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
    raise UserError(
      f'{source}: its {size / 1e9:.1f} GB do not fit on the disk of {stage}, '
      f'which has {free / 1e9:.1f} GB free; make room, or name another folder '
      'with --stage_to'
    )
  line = f'{source}: copying {size / 1e6:,.1f} MB to {stage}'
  print(line, file=sys.stderr, flush=True)


def _download(
  parent: str, objects: Mapping[str, _Object], folder: pathlib.Path
) -> None:
  """Copies objects and compares their sizes and MD5 sums."""
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
        f'{storage.REMOTE}{parent}/{name}: its md5 or size differs from the '
        "bucket's listing; upload the file again"
      )
