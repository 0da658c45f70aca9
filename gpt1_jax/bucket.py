"""Reads and writes Google Cloud Storage; needs the gcs extra."""

import logging
from collections.abc import Iterator
from typing import Any

import fsspec
from gcsfs import core

# gcsfs logs a traceback for every error that it raises.
logging.getLogger('gcsfs').setLevel(logging.CRITICAL)


class FileSystem(core.GCSFileSystem):
  """A bucket in which a file is missing only if the bucket says so.

  gcsfs and fsspec report an unreachable bucket or a lack of permission as a
  missing file or an empty folder.
  """

  async def _isdir(self, path: str) -> bool:
    return await self._type(path) == 'directory'

  async def _isfile(self, path: str) -> bool:
    return await self._type(path) == 'file'

  def walk(self, path: str, **options: Any) -> Iterator[Any]:
    return super().walk(path, **{'on_error': 'raise', **options})

  async def _type(self, path: str) -> str | None:
    try:
      return (await self._info(path))['type']
    except FileNotFoundError:
      return None


def filesystem() -> Any:
  """Returns the file system for buckets, with listing caches disabled."""
  fsspec.register_implementation('gcs', FileSystem, clobber=True)
  # Another host may have written since the last listing.
  settings = fsspec.config.conf.setdefault('gcs', {})
  settings.setdefault('use_listings_cache', False)
  # The same arguments as in etils return the instance that epath and Orbax use.
  return fsspec.filesystem('gcs', finalize_on_close=True)
