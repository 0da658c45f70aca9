r"""Serves a run over HTTP: the OpenAI completions API, and a page.

  python -m gpt1_jax.serve --workdir=runs/mini --port=8000

Open http://127.0.0.1:8000 in a browser, or use any client of the API:

  client = openai.OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='none')
  client.completions.create(model='mini', prompt='It was a dark')

Requests run in one batch. There is no password: --host=0.0.0.0 opens the server
to everyone who can reach this machine. Needs pip install 'gpt1_jax[serve]'.
"""

import asyncio
import contextlib
import logging
import pathlib
import signal
import socket as socket_lib

from absl import flags

from gpt1_jax import cli, interrupts
from gpt1_jax.errors import UserError

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run directory, or a folder of weights.', required=True
)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on.')
_PORT = flags.DEFINE_integer(
  'port', 8000, 'Port to listen on.', lower_bound=0, upper_bound=65535
)
_STEP = cli.define_step()
_GRACE = 2  # seconds for the answers under way when the server ends


def main() -> None:
  cli.say_first(f'serve: {_WORKDIR.value}')
  try:
    with interrupts.importing():
      import uvicorn

      from gpt1_jax.inference import loading
      from gpt1_jax.serving import app
  except ImportError as error:
    raise UserError(
      f"serving needs {error.name}: pip install 'gpt1_jax[serve]'"
    ) from None
  run = loading.load(_WORKDIR.value, _STEP.value)
  name = pathlib.PurePath(_WORKDIR.value).name or 'gpt1'
  server = app.Server(run, name)
  config = uvicorn.Config(
    server.app(),
    host=_HOST.value,
    port=_PORT.value,
    log_level='warning',
    timeout_graceful_shutdown=_GRACE,
  )
  logging.getLogger('uvicorn.error').addFilter(_is_no_cancellation)
  with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down
    interrupts.release()
    # uvicorn shuts down on SIGTERM, too, and then raises it again.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    socket = _listen(_HOST.value, _PORT.value, config.backlog)
    print(
      f'{run}\nhttp://{_HOST.value}:{socket.getsockname()[1]} (Ctrl-C ends it)',
      flush=True,
    )
    server.warm_up()
    uvicorn.Server(config).run(sockets=[socket])
  cli.leave(0)  # the engine may still compile


def _listen(host: str, port: int, backlog: int) -> socket_lib.socket:
  """Returns a socket that listens on an address.

  Raises:
    UserError: the address is in use, not of this machine, or not allowed.
  """
  family = socket_lib.AF_INET6 if ':' in host else socket_lib.AF_INET
  try:
    return socket_lib.create_server(
      (host, port), family=family, backlog=backlog
    )
  except OSError as error:
    # create_server adds the address to the system's words.
    reason = str(error.strerror).partition(' (while')[0]
    raise UserError(
      f'--host={host} --port={port}: {reason}; choose others (--port=0 takes a '
      'free port)'
    ) from None


def _is_no_cancellation(record: logging.LogRecord) -> bool:
  """Filters out what uvicorn says of requests that the server's end cancels."""
  error = record.exc_info and record.exc_info[1]
  is_count = record.getMessage().startswith('Cancel ')
  return not (is_count or isinstance(error, asyncio.CancelledError))


if __name__ == '__main__':
  cli.run(main)
