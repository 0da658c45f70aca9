"""Tests the server as a process: its port, and how it ends."""

import contextlib
import json
import signal
import socket

import pytest

from tests.support import commands
from tests.support.completions import PROMPT

pytest.importorskip('gpt1_jax.serving.app')
HEADERS = (
  'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n'
)


def _connect(url, text):
  host, port = url.removeprefix('http://').split(':')
  connection = socket.create_connection((host, int(port)))
  connection.sendall(text.encode())
  return connection


def _post(**values):
  body = json.dumps(values)
  return HEADERS.format(len(body)) + body


def test_a_port_in_use_is_refused_in_one_line(pretrained):
  with contextlib.closing(socket.create_server(('127.0.0.1', 0))) as taken:
    port = taken.getsockname()[1]
    error = commands.fail('serve', f'--workdir={pretrained}', f'--port={port}')
  assert error == (
    f'error: --host=127.0.0.1 --port={port}: Address already in use; choose '
    'others (--port=0 takes a free port)'
  )


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_with_open_connections(pretrained, end):
  """`commands.serving` requires exit code 0 and no traceback."""
  texts = [
    '',  # silence
    'POST /v1/compl',
    'POST /v1/completions HTTP/1.1\r\nHost: x\r\n',
    HEADERS.format(1000) + '{"prompt"',  # half of a body
    _post(prompt=PROMPT, max_tokens=4096, temperature=0),  # a long answer
    _post(prompt=PROMPT, max_tokens=4096, stream=True),  # which nobody reads
  ]
  with (
    contextlib.ExitStack() as stack,
    commands.serving(pretrained, end) as url,
  ):
    for text in 8 * texts:
      stack.enter_context(_connect(url, text))
    # Answered after the server has read the requests before.
    last = 'GET /health HTTP/1.1\r\nHost: x\r\n\r\n'
    answer = stack.enter_context(_connect(url, last)).recv(100)
    assert b' 200 ' in answer
