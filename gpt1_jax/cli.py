"""What the front doors share: absl entry, configuration, one-line errors.

`run(main)` is the last line of every command. A `UserError` (or an operating
system error such as a full disk) becomes one line on stderr and exit code 1;
anything else is a defect of ours and keeps its traceback.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging

from gpt1_jax import config, errors, staging, storage

STAGE_TO = flags.DEFINE_string(
  'stage_to',
  staging.STAGE_TO,
  'Folder on this machine that holds copies of data in a bucket (gs://); a '
  'copy is made once and used again.',
)
_PRINT_CONFIG = flags.DEFINE_bool(
  'print_config', False, 'Print every setting of --config and exit.'
)


def run(main: Callable[[list[str]], None]) -> None:
  """Runs `main(argv)` under absl and turns user errors into one line."""

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      _fail(
        f'unexpected argument {argv[1]!r}: every option is --name=value, '
        'see --help'
      )
    try:
      main(argv)
    except errors.UserError as error:
      _fail(str(error))
    except KeyboardInterrupt:
      _fail('interrupted; finished work is intact, run it again to go on')
    except OSError as error:
      line = storage.bucket_error(error)
      _fail(
        line or f'{error.strerror or error}: {error.filename or "(no file)"}'
      )
    except Exception as error:
      line = storage.bucket_error(error)
      if line is None:
        raise
      _fail(line)

  logging.set_verbosity(logging.WARNING)
  app.run(guarded)


def print_config(values: dict[str, Any]) -> bool:
  """Prints the resolved configuration if --print_config asks for it.

  Args:
    values: the configuration as plain nested values.

  Returns:
    True if it was printed: the command then has nothing else to do.
  """
  if _PRINT_CONFIG.value:
    print(config.as_flags(values))
  return _PRINT_CONFIG.value


def required(flag: str, value: str | None) -> str:
  """Returns the value of a flag that a command cannot run without.

  Raises:
    UserError: it is not given.
  """
  if not value:
    raise errors.UserError(f'--{flag} is missing, see --help')
  return value


def _fail(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)
  jax = sys.modules.get('jax')  # not loaded by commands that only read text
  if jax and jax.distributed.is_initialized():
    # An orderly exit would wait for the other hosts, which wait for this one.
    sys.stdout.flush()
    os._exit(1)
  sys.exit(1)
