"""What the front doors share: absl entry, one-line errors, exit codes.

`run(main)` is the last line of every command. A `UserError` (or an operating
system error such as a full disk) becomes one line on stderr and exit code 1;
anything else is a defect of ours and keeps its traceback.
"""

import sys
from collections.abc import Callable

from absl import app, logging

from gpt1_jax import errors


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
      _fail(f'{error.strerror or error}: {error.filename or "(no file)"}')

  logging.set_verbosity(logging.WARNING)
  app.run(guarded)


def _fail(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)
  sys.exit(1)
