"""Tests the server's engine: errors, compilations, clients that leave."""

import asyncio
import json
import re
import threading
from unittest import mock

import jax
import pytest

import gpt1_jax
from gpt1_jax.inference import options
from tests.support.completions import PROMPT, ask

testclient = pytest.importorskip(
  'starlette.testclient', reason="pip install 'gpt1_jax[serve]'"
)

app = pytest.importorskip('gpt1_jax.serving.app')
engine = pytest.importorskip('gpt1_jax.serving.engine')


@pytest.fixture(scope='module')
def run(pretrained):
  return gpt1_jax.load(pretrained)


@pytest.fixture(scope='module')
def local(run):
  """A client of the application in this process."""
  with testclient.TestClient(app.Server(run, 'mini').app()) as client:
    yield client


def test_the_engine_survives_an_error(local, run, monkeypatch):
  monkeypatch.setattr(
    app.completions.Continuation, 'feed', lambda self, token: 1 / 0
  )
  with pytest.raises(ZeroDivisionError):
    ask(local, prompt='the', max_tokens=2)
  events = ask(local, prompt='the', max_tokens=2, stream=True).text
  assert 'ZeroDivisionError' in events
  monkeypatch.undo()
  assert ask(local, prompt='the', max_tokens=2).status_code == 200


def test_a_request_gets_the_error_of_a_decoder_that_cannot_be_made(run):
  """Memory may be short; later requests are answered."""
  sample = options.parse({'max_tokens': 1, 'seed': 1})

  async def piece():
    job = made.submit(run.start('the', sample, (0, 0)))
    return await asyncio.wait_for(anext(job.pieces()), 60)

  with mock.patch.object(type(run), 'decoder', side_effect=MemoryError):
    made = engine.Engine(run)
    made.warm_up()
    with pytest.raises(MemoryError):
      asyncio.run(piece())
  assert asyncio.run(piece()).last
  made.close()


def test_the_engine_outlives_an_event_loop_and_stderr(run, monkeypatch):
  monkeypatch.setattr(engine, '_SECONDS', 0)
  monkeypatch.setattr(
    engine.sys, 'stderr', mock.Mock(write=mock.Mock(side_effect=OSError))
  )
  made = engine.Engine(run)
  started, go = threading.Event(), threading.Event()

  async def leave():
    call = made.call(lambda: started.set() or go.wait(60))
    with pytest.raises(TimeoutError):
      await asyncio.wait_for(call, 0.1)

  asyncio.run(leave())
  go.set()
  jax.clear_caches()
  found = asyncio.run(made.predictions(run.encode('the')[:1], 1))
  assert len(found.log_probs_BT) == 1
  made.close()


def test_the_first_request_finds_a_compiled_program(run, monkeypatch, capfd):
  monkeypatch.setattr(engine, '_SECONDS', 0)
  jax.clear_caches()
  server = app.Server(run, 'mini')
  server.warm_up()
  with testclient.TestClient(server.app()) as client:
    for prompt, count in (('the', 1), (PROMPT, 50)):
      ask(client, prompt=prompt, max_tokens=count).raise_for_status()
  (line,) = capfd.readouterr().err.splitlines()
  assert line.startswith('compiled for a prompt in ')


def test_a_compilation_is_one_line_of_the_log(run, monkeypatch, capfd):
  monkeypatch.setattr(engine, '_SECONDS', 0)
  jax.clear_caches()
  with testclient.TestClient(app.Server(run, 'mini').app()) as client:
    for _ in range(2):
      ask(client, prompt=PROMPT, n=3, max_tokens=1).raise_for_status()
  (line,) = capfd.readouterr().err.splitlines()
  assert re.fullmatch(r'compiled for a batch of 3 in \d+\.\d s', line)


def test_a_client_that_leaves_within_its_request_is_no_error():
  """Its absence would be a traceback in the server's log."""
  sent = []

  async def receive():
    return {'type': 'http.disconnect'}

  async def send(message):
    sent.append(message)

  scope = {'type': 'http', 'method': 'POST', 'path': '/v1/completions'}
  scope |= {'headers': [], 'query_string': b''}
  server = app.Server(mock.MagicMock(), 'x').app()
  asyncio.run(server(scope, receive, send))
  assert sent[0]['status'] == 400


def test_texts_for_clients_that_left_are_dropped(run):
  """Otherwise 256 long texts would block other clients for minutes."""
  server = app.Server(run, 'x')
  body = json.dumps({'prompt': 'the', 'n': 256, 'max_tokens': 4096}).encode()
  ask_for = {'type': 'http.request', 'body': body, 'more_body': False}
  messages = iter([ask_for, {'type': 'http.disconnect'}])
  sent, jobs = [], []

  async def receive():
    return next(messages)

  async def send(message):
    sent.append(message)

  submit = server._engine.submit

  def submitted(sample):
    jobs.append(submit(sample))
    return jobs[-1]

  scope = {'type': 'http', 'method': 'POST', 'path': '/v1/completions'}
  scope |= {'headers': [], 'query_string': b''}

  async def answer():
    with mock.patch.object(server._engine, 'submit', submitted):
      await server.app()(scope, receive, send)
    server._engine.close()  # before the event loop, which it calls

  asyncio.run(answer())
  assert sent[0]['status'] == 400
  assert len(jobs) == 256
  assert all(job.cancelled for job in jobs)
