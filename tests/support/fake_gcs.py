"""Answers requests to Google Cloud Storage's JSON API; see `fake_bucket`."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import time
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tests.support import fake_bucket


class Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128

  def handle_error(self, *_) -> None:
    """Ignores clients that end in the middle of an answer."""


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  bucket: fake_bucket.Bucket

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
