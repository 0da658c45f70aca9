"""Finds a task's file in a folder or a zip and reads its rows.

Archives are unpacked by hand in many ways, so a file is looked for in the
folder given, in its sub-folders that carry the task's name, and in zips.
Rows come out as dicts, whether the file is a table or JSON lines.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from gpt1_jax import errors


@dataclasses.dataclass(frozen=True)
class Source:
  """One file: plain where `member` is empty, else a member of a zip."""

  path: pathlib.Path
  member: str = ''

  def __str__(self) -> str:
    return f'{self.path}/{self.member}' if self.member else str(self.path)

  @property
  def folder(self) -> str:
    """Name of the folder that holds the file, as `same_name` compares it."""
    return same_name(pathlib.Path(str(self)).parent.name)

  @contextlib.contextmanager
  def open(self) -> Iterator[IO[bytes]]:
    """Opens for reading bytes; a damaged zip is a `UserError`."""
    if not self.member:
      with self.path.open('rb') as stream:
        yield stream
      return
    try:
      with (
        zipfile.ZipFile(self.path) as archive,
        archive.open(self.member) as stream,
      ):
        yield stream
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
      raise errors.UserError(
        f'{self}: damaged zip ({error}); fetch it again'
      ) from None


def same_name(name: str) -> str:
  """What two spellings of a folder share: `SST-2`, `sst2`, `glue-sst2`."""
  return re.sub('[^a-z0-9]', '', name.lower()).removeprefix('glue')


def find(
  path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> Source | None:
  """Looks for the first of `names`, in the order given.

  Args:
    path: a folder or a zip.
    names: file names, most wanted first.
    folders: names of the folder (or zip) the task's archive unpacks to; read
      as `same_name` does. Looked at: `path/NAME`, `path/FOLDER/NAME`,
      `path/*/FOLDER/NAME`, `path/FOLDER.zip`.

  Returns:
    Where the file is, or None.

  Raises:
    UserError: `path` does not exist, or is neither a folder nor a zip.
  """
  wanted = {same_name(folder) for folder in folders}
  if not path.exists():
    raise errors.UserError(
      f'{path}: no such file or folder; set config.data.path'
    )
  if not path.is_dir():
    if not zipfile.is_zipfile(path):
      raise errors.UserError(
        f'{path}: neither a folder nor a zip; set config.data.path'
      )
    return _find_in_zip(path, names, wanted)
  places = list(_places(path, wanted))
  for name in names:
    for place in places:
      if (place / name).is_file():
        return Source(place / name)
  for archive in sorted(path.glob('*.zip')):
    if same_name(archive.stem) in wanted and zipfile.is_zipfile(archive):
      source = _find_in_zip(archive, names, wanted)
      if source:
        return source
  return None


def looked_for(
  path: pathlib.Path, names: Sequence[str], folders: Sequence[str]
) -> str:
  """The places `find` looks at, in words for an error."""
  files = ' or '.join(names)
  if not path.is_dir():
    return f'looked in {path} for {files}'
  zips = ', '.join(f'{folder}.zip' for folder in folders)
  inside = ', '.join(f'{folder}/, */{folder}/' for folder in folders)
  return f'looked in {path} for {files}, there and in {inside}, {zips}'


def read(
  source: Source, needed: Sequence[str], columns: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields (line number from 1, row) of a table or of JSON lines.

  Tables are split at tabs with quoting off: a `"` in a cell is a character.
  A row shorter than the header lacks the keys of the missing cells; cells
  beyond the header are ignored (SNLI's own files are ragged). Blank lines are
  skipped. A file whose first line begins with `{` is JSON lines.

  Args:
    source: the file.
    needed: columns the header must have (JSON rows are the caller's to check).
    columns: names for a table without a header, taken where the first line
      does not hold all of `needed`.

  Raises:
    UserError: not UTF-8, empty, a column missing, or a line that is no JSON
      object; the message names file and line.
  """
  header: list[str] = []
  as_json = source.member.endswith('.jsonl') or source.path.suffix == '.jsonl'
  found = False
  for number, line in _lines(source):
    if not line.strip():
      continue
    if not found and line.startswith('{'):
      as_json = True
    if as_json:
      found = True
      yield number, _json_row(line, f'{source}:{number}')
      continue
    cells = line.split('\t')
    if not header:
      header, is_data = _header(cells, needed, columns, f'{source}:{number}')
      if not is_data:
        continue
    found = True
    yield number, dict(zip(header, cells, strict=False))
  if not found:
    raise errors.UserError(f'{source}: no rows in it')


def _places(
  path: pathlib.Path, wanted: set[str], depth: int = 1
) -> Iterator[pathlib.Path]:
  """`path`, then its folders of a wanted name and theirs, then one level on."""
  yield path
  children = sorted(child for child in path.iterdir() if child.is_dir())
  others = []
  for child in children:
    if same_name(child.name) in wanted:
      yield from _places(child, wanted, depth=0)
    else:
      others.append(child)
  if depth:
    for other in others:
      yield from itertools.islice(_places(other, wanted, depth=0), 1, None)


def _find_in_zip(
  path: pathlib.Path, names: Sequence[str], wanted: set[str]
) -> Source | None:
  """The member in a folder of a wanted name, or the only one so called."""
  try:
    with zipfile.ZipFile(path) as archive:
      members = [
        pathlib.PurePosixPath(member)
        for member in archive.namelist()
        if not member.endswith('/') and not member.startswith('__MACOSX/')
      ]
  except zipfile.BadZipFile as error:
    raise errors.UserError(
      f'{path}: damaged zip ({error}); fetch it again'
    ) from None
  for name in names:
    matches = [member for member in members if member.name == name]
    inside = [m for m in matches if same_name(m.parent.name) in wanted]
    if inside or len(matches) == 1:
      return Source(path, str((inside or matches)[0]))
  return None


def _lines(source: Source) -> Iterator[tuple[int, str]]:
  """Lines ended by a newline only: text may hold other separators."""
  with source.open() as stream:
    for number, raw in enumerate(stream, 1):
      try:
        # The first line may begin with a byte-order mark.
        line = raw.decode('utf-8-sig' if number == 1 else 'utf-8')
      except UnicodeDecodeError as error:
        raise errors.UserError(
          f'{source}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at '
          f'{error.start + 1} in the line); save the file as UTF-8'
        ) from None
      yield number, line.rstrip('\r\n')


def _header(
  cells: list[str], needed: Sequence[str], columns: Sequence[str], where: str
) -> tuple[list[str], bool]:
  """Column names, and whether the line itself is a row of data."""
  # TFDS's test fixture of MRPC spells its byte-order mark out.
  cells = [cells[0].removeprefix('BOM'), *cells[1:]]
  missing = [column for column in needed if column not in cells]
  if not missing:
    return cells, False
  if columns:
    return list(columns), True
  raise errors.UserError(
    f'{where}: no column {missing[0]!r} in the header: '
    + ', '.join(repr(cell) for cell in cells[:16])
  )


def _json_row(line: str, where: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise errors.UserError(
      f'{where}: not a JSON object ({error.msg} at column {error.colno}); '
      'one whole object a line'
    ) from None
  if not isinstance(row, dict):
    raise errors.UserError(
      f'{where}: a JSON {type(row).__name__} where an object is wanted'
    )
  return row
