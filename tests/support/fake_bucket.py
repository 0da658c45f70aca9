"""Imitates Google Cloud Storage in memory; its API is in `fake_gcs`.

The commands use their real clients: gcsfs, Google's and TensorStore's. Like a
bucket it has objects with generations and no folders; an object appears when it
is complete, and cannot be appended to or renamed. Copying is refused, because
clients rename by copying.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import threading
from collections.abc import Iterator

from tests import QUICKLY_COMPILED
from tests.support import fake_gcs


@dataclasses.dataclass
class Bucket:
  """The objects of all buckets, and the requests for them.

  Attributes:
    url: address of the server.
    objects: 'BUCKET/NAME' -> content.
    requests: (method, path, size of the body), in order.
    slow: seconds that reading an object takes, except for meta.json.
    broken: pattern of names whose content arrives damaged.
    forbidden: pattern of paths that the client may not request.
  """

  url: str = ''
  objects: dict[str, bytes] = dataclasses.field(default_factory=dict)
  generations: dict[str, int] = dataclasses.field(default_factory=dict)
  uploads: dict[str, list] = dataclasses.field(default_factory=dict)
  requests: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)
  slow: float = 0.0
  broken: str = ''
  forbidden: str = ''
  lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)
  count: int = 0

  def put(self, key: str, content: bytes) -> None:
    with self.lock:
      self.count += 1
      self.objects[key], self.generations[key] = content, self.count

  def put_folder(self, key: str, folder: pathlib.Path) -> None:
    """Puts every file of a folder below BUCKET/NAME."""
    for file in folder.rglob('*'):
      if file.is_file():
        self.put(f'{key}/{file.relative_to(folder)}', file.read_bytes())

  def reads(self, pattern: str) -> int:
    """Returns how often the content of matching objects was requested."""
    return sum(
      method == 'GET' and 'alt=media' in path and bool(re.search(pattern, path))
      for method, path, _ in self.requests
    )

  def environment(self) -> dict[str, str]:
    """Returns an environment whose clients use this server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
    return {
      **kept,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': QUICKLY_COMPILED,
      'STORAGE_EMULATOR_HOST': self.url,  # gcsfs and Google's client
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',  # TensorStore
      'FSSPEC_GCS_TOKEN': 'anon',
      'NO_GCE_CHECK': 'true',
      'GOOGLE_CLOUD_PROJECT': 'none',
    }


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
  """Runs a server on a free port."""
  bucket = Bucket()
  handler = type('Handler', (fake_gcs.Handler,), {'bucket': bucket})
  server = fake_gcs.Server(('127.0.0.1', 0), handler)
  bucket.url = f'http://127.0.0.1:{server.server_address[1]}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield bucket
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def here(monkeypatch) -> Iterator[Bucket]:
  """Runs a server that gs:// paths of this process use as well."""
  import fsspec
  from etils.epath import backend

  from gpt1_jax.bucket import FileSystem

  with serve() as bucket:
    for name, value in bucket.environment().items():
      monkeypatch.setenv(name, value)
    # fsspec reads its variables once, and instances keep the old server.
    settings = fsspec.config.conf.setdefault('gcs', {})
    monkeypatch.setitem(settings, 'token', 'anon')
    FileSystem.clear_instance_cache()
    backend.fsspec_backend._get_filesystem.cache_clear()
    yield bucket
  FileSystem.clear_instance_cache()
  backend.fsspec_backend._get_filesystem.cache_clear()
