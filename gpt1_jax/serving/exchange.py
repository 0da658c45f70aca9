"""Reads requests and answers errors, in the same way for all routes."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pydantic
from starlette import requests, responses

from gpt1_jax.serving import completions, engine

MAX_BODY = 4_000_000  # bytes
_T = TypeVar('_T')


async def unless_left(
  request: requests.Request, answer: Coroutine[Any, Any, _T]
) -> _T:
  """Returns the answer; cancels it when the client closes the connection.

  Raises:
    ClientDisconnect: the client closed the connection first.
  """
  answering = asyncio.create_task(answer)
  leaving = asyncio.create_task(_until_left(request))
  try:
    await asyncio.wait(
      {answering, leaving}, return_when=asyncio.FIRST_COMPLETED
    )
    if not answering.done():
      raise requests.ClientDisconnect
    return answering.result()
  finally:
    answering.cancel()
    leaving.cancel()


async def _until_left(request: requests.Request) -> None:
  """Waits until the client closes the connection; its request was read."""
  while (await request.receive())['type'] != 'http.disconnect':
    pass


async def body(request: requests.Request) -> bytes:
  """Returns the body of a request.

  Raises:
    LimitError: it is too long.
  """
  data = b''
  async for part in request.stream():
    data += part
    if len(data) > MAX_BODY:
      raise completions.LimitError(
        f'the request is longer than {MAX_BODY:,} bytes'
      )
  return data


def message(status: int, text: str) -> dict[str, dict[str, str | int]]:
  """Returns the body of an error response, in OpenAI's form."""
  kind = 'invalid_request_error' if status < 500 else 'server_error'
  return {'error': {'message': text, 'type': kind, 'code': status}}


def error(status: int, text: str) -> responses.Response:
  """Returns an error response."""
  return responses.JSONResponse(message(status, text), status)


def refused(_: requests.Request, raised: Exception) -> responses.Response:
  """Answers 400 with the message of the exception."""
  return error(400, str(raised))


def invalid(_: requests.Request, raised: Exception) -> responses.Response:
  """Names each wrong key once; pydantic reports one error per union member."""
  assert isinstance(raised, pydantic.ValidationError)
  found: dict[str, str] = {}
  for mistake in raised.errors():
    key = str(mistake['loc'][0])[:60] if mistake['loc'] else 'the request'
    unknown = mistake['type'] == 'extra_forbidden'
    found.setdefault(key, 'not supported' if unknown else mistake['msg'])
  text = '; '.join(f'{key}: {what}' for key, what in found.items())
  return error(400, text)


def busy(_: requests.Request, raised: Exception) -> responses.Response:
  """Answers 429: too many texts are waiting."""
  waiting = engine.MAX_WAITING
  return error(429, f'{waiting} texts wait already: try again later')


def unknown(request: requests.Request, raised: Any) -> responses.Response:
  """Answers 404 or 405 and names the routes."""
  paths = dict.fromkeys(
    route.path.removesuffix('/{name:path}') for route in request.app.routes
  )
  return error(
    raised.status_code,
    f'{request.method} {request.url.path}: {raised.detail}; this server has '
    f'{", ".join(paths)}',
  )
