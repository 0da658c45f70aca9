"""Imitates Google Cloud Storage: its JSON API over HTTP, in memory.

The commands use their real clients: gcsfs, Google's and TensorStore's. Like a
bucket it has objects with generations and no folders; an object appears when it
is complete, and cannot be appended to or renamed. Copying is refused, because
clients rename by copying.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import pathlib
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator

from tests import QUICKLY_COMPILED


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
  handler = type('Handler', (_Handler,), {'bucket': bucket})
  server = _Server(('127.0.0.1', 0), handler)
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


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, *_) -> None:
    """Ignores clients that end in the middle of an answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  bucket: Bucket

  def log_message(self, *_) -> None:
    pass

  def _handle(self) -> None:
    length = int(self.headers.get('Content-Length') or 0)
    body = self.rfile.read(length)
    self.bucket.requests.append((self.command, self.path, length))
    if self.path.startswith('/batch/'):
      return self._batch(body)
    code, headers, content = self._answer(self.command, self.path, body)
    return self._send(code, headers, content)

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _handle

  def _send(self, code: int, headers: dict, content: bytes) -> None:
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def _answer(self, method: str, path: str, body: bytes):
    parts = urllib.parse.urlsplit(path)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    words = re.fullmatch(
      r'(/upload|/download)?/(?:storage/v1/)?b/([^/]+)(?:/o(?:/(.+))?)?/?',
      parts.path,
    )
    if not words:
      return _failure(501, f'{method} {path} is not supported')
    if self.bucket.forbidden and re.search(self.bucket.forbidden, path):
      return _failure(403, 'no permission')
    kind, bucket, name = words.groups()
    listing = re.search('/o/?$', parts.path) and not name
    name = urllib.parse.unquote(name or '')
    if re.search('/(rewriteTo|copyTo|compose)(/|$)', name):
      return _failure(501, 'copying and renaming are refused')
    with self.bucket.lock:
      if kind == '/upload':
        return self._upload(method, bucket, query, body)
      if listing:
        return self._list(bucket, query)
      if not name:
        return _json({'kind': 'storage#bucket', 'name': bucket, 'id': bucket})
      key = f'{bucket}/{name}'
      if key not in self.bucket.objects:
        return _failure(404, f'no such object: {key}')
      refusal = self._refusal(key, query)
      if refusal:
        return refusal
      if method == 'DELETE':
        del self.bucket.objects[key], self.bucket.generations[key]
        return 204, {}, b''
      if method == 'GET' and query.get('alt') != 'media':
        return _json(self._facts(key))
      if method != 'GET':
        return _failure(501, f'{method} of an object is not supported')
    time.sleep(0.0 if name.endswith('meta.json') else self.bucket.slow)
    return self._content(key)

  def _content(self, key: str):
    content = self.bucket.objects[key]
    if self.bucket.broken and re.search(self.bucket.broken, key):
      content = content[:-1] + bytes([content[-1] ^ 1])
    headers = {
      'Content-Type': 'application/octet-stream',
      'x-goog-generation': str(self.bucket.generations[key]),
      'x-goog-stored-content-length': str(len(content)),
    }
    span = re.fullmatch(
      r'bytes=(\d+)-(\d*)', (self.headers.get('Range') or '').strip()
    )
    if not span:
      return 200, headers, content
    start = int(span[1])
    stop = min(int(span[2] or len(content)), len(content) - 1)
    if start >= len(content):
      return 416, headers, b''
    headers['Content-Range'] = f'bytes {start}-{stop}/{len(content)}'
    return 206, headers, content[start : stop + 1]

  def _facts(self, key: str) -> dict:
    bucket, _, name = key.partition('/')
    content = self.bucket.objects[key]
    where = urllib.parse.quote(name, safe='')
    md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
    generation = str(self.bucket.generations[key])
    return {
      'kind': 'storage#object',
      'bucket': bucket,
      'name': name,
      'id': f'{key}/{generation}',
      'size': str(len(content)),
      'md5Hash': md5,
      'etag': generation,
      'generation': generation,
      'metageneration': '1',
      'timeCreated': '2026-01-01T00:00:00.000Z',
      'updated': '2026-01-01T00:00:00.000Z',
      'storageClass': 'STANDARD',
      'contentType': 'application/octet-stream',
      'mediaLink': f'{self.bucket.url}/download/storage/v1/b/{bucket}/o/'
      f'{where}?generation={generation}&alt=media',
    }

  def _list(self, bucket: str, query: dict):
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    names, prefixes = [], set()
    for key in sorted(self.bucket.objects):
      owner, _, name = key.partition('/')
      if owner != bucket or not name.startswith(prefix):
        continue
      if not query.get('startOffset', '') <= name:
        continue
      if 'endOffset' in query and name >= query['endOffset']:
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
      else:
        names.append(key)
    first = int(query.get('pageToken') or 0)
    size = min(int(query.get('maxResults') or 1000), 1000)
    page = names[first : first + size]
    out = {
      'kind': 'storage#objects',
      'items': [self._facts(key) for key in page],
      'prefixes': sorted(prefixes),
    }
    if first + size < len(names):
      out['nextPageToken'] = str(first + size)
    return _json(out)

  def _refusal(self, key: str, query: dict):
    """Returns an answer if a condition on the generation does not hold."""
    there = self.bucket.generations.get(key, 0)
    if int(query.get('ifGenerationMatch', there)) != there:
      return _failure(412, 'condition not met')
    if int(query.get('ifGenerationNotMatch', -1)) == there:
      return 304, {}, b''
    return None

  def _upload(self, method: str, bucket: str, query: dict, body: bytes):
    if 'upload_id' in query:
      return self._continue_upload(query['upload_id'], body)
    kind, name = query['uploadType'], query.get('name')
    if kind == 'multipart':
      boundary = re.search('boundary=["\']?([^"\';]+)', self._type())[1]
      _, facts, content, _ = re.split(
        rb'(?:\r?\n)?--' + re.escape(boundary.encode()) + rb'(?:--)?\r?\n?',
        body,
      )
      facts, content = (
        re.split(rb'\r?\n\r?\n', part, maxsplit=1)[1]
        for part in (facts, content)
      )
      name = json.loads(facts).get('name', name)
    elif kind == 'resumable':
      name = json.loads(body or b'{}').get('name', name)
      number = str(len(self.bucket.uploads))
      self.bucket.uploads[number] = [f'{bucket}/{name}', b'', query]
      where = f'{self.bucket.url}{self.path.split("?")[0]}?upload_id={number}'
      return 200, {'Location': where, 'X-GUploader-UploadID': number}, b''
    else:
      content = body
    return self._store(f'{bucket}/{name}', content, query)

  def _type(self) -> str:
    return self.headers.get('Content-Type') or ''

  def _continue_upload(self, number: str, body: bytes):
    """Takes a piece of a resumable upload; the last creates the object."""
    key, before, query = self.bucket.uploads[number]
    span = self.headers.get('Content-Range') or ''
    self.bucket.uploads[number][1] = content = before + body
    total = span.rpartition('/')[2]
    if total == '*' or (total and int(total) > len(content)):
      return 308, {'Range': f'bytes=0-{len(content) - 1}'}, b''
    return self._store(key, content, query)

  def _store(self, key: str, content: bytes, query: dict):
    refusal = self._refusal(key, query)
    if refusal:
      return refusal
    self.bucket.put(key, content)
    return _json(self._facts(key))

  def _batch(self, body: bytes) -> None:
    """Answers several requests in one, as clients delete many objects."""
    boundary = re.search('boundary=["\']?([^"\';]+)', self._type())[1]
    parts = []
    for piece in body.split(b'--' + boundary.encode()):
      asked = re.search(rb'^(DELETE|GET) (\S+)', piece, re.MULTILINE)
      if asked:
        code, _, content = self._answer(
          asked[1].decode(), asked[2].decode(), b''
        )
        number = re.search(rb'Content-ID: *<([^>]*)>', piece, re.IGNORECASE)
        number = number[1] if number else b''
        parts.append(
          b'--answer\r\nContent-Type: application/http\r\nContent-ID: '
          b'<response-%s>\r\n\r\nHTTP/1.1 %d x\r\n\r\n%s\r\n'
          % (number, code, content)
        )
    content = b''.join(parts) + b'--answer--'
    self._send(
      200, {'Content-Type': 'multipart/mixed; boundary=answer'}, content
    )


def _json(value: dict):
  content = json.dumps(value).encode()
  return 200, {'Content-Type': 'application/json; charset=UTF-8'}, content


def _failure(code: int, message: str):
  _, headers, content = _json({'error': {'code': code, 'message': message}})
  return code, headers, content
