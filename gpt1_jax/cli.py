"""What the front doors share: absl entry, configuration, one-line errors.

`run(main)` is the last line of every command. A `UserError` (or an operating
system error such as a full disk) becomes one line on stderr and exit code 1;
anything else is a defect of ours and keeps its traceback.
"""

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags, logging

from gpt1_jax import errors, staging, storage

STAGE_TO = flags.DEFINE_string(
  'stage_to',
  staging.STAGE_TO,
  'Folder on this machine that holds copies of data in a bucket (gs://); a '
  'copy is made once and used again.',
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


def sections(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
  """The named sections of a configuration, and no others.

  Raises:
    UserError: a section is missing or nobody takes it; the message names it.
  """
  for name in names:
    if name not in config:
      raise errors.UserError(f'config.{name} is missing')
  for name in config:
    if name not in names:
      raise errors.UserError(
        f'config.{name}: nothing takes it; sections are ' + ', '.join(names)
      )
  return dict(config)


def fill(
  section: str,
  consumer: Callable[..., Any],
  values: Mapping[str, Any],
  **known: Any,
) -> Any:
  """`consumer(**values, **known)`: a section has one consumer, no defaults.

  Args:
    section: its name, for messages.
    consumer: every parameter is given, by the section or by `known`.
    values: the section.
    **known: what does not come from the configuration.

  Raises:
    UserError: a key nobody takes, a missing one, or one without a value.
  """
  wanted = set(inspect.signature(consumer).parameters) - set(known)
  for key, value in values.items():
    if key not in wanted:
      raise errors.UserError(
        f'config.{section}.{key}: nothing takes it; keys are '
        + ', '.join(sorted(wanted))
      )
    if value is None:
      raise errors.UserError(
        f'config.{section}.{key} is not set; give --config.{section}.{key}=...'
      )
  for key in sorted(wanted - set(values)):
    raise errors.UserError(f'config.{section}.{key} is missing')
  return consumer(**values, **known)


def num_steps(steps: int, epochs: float, steps_per_epoch: float) -> int:
  """Updates in all: exactly one of train.num_steps and num_epochs is set.

  Raises:
    UserError: both or neither are above 0.
  """
  if (steps > 0) == (epochs > 0):
    raise errors.UserError(
      f'config.train.num_steps is {steps} and num_epochs is {epochs}: set '
      'exactly one of them, and the other to 0'
    )
  return steps or max(1, round(epochs * steps_per_epoch))


def positive(section: str, values: Mapping[str, Any], *names: str) -> None:
  """Refuses values below 1.

  Raises:
    UserError: naming the first such key.
  """
  for name in names:
    if values[name] < 1:
      raise errors.UserError(
        f'config.{section}.{name} is {values[name]}: at least 1'
      )


def _fail(message: str) -> None:
  print(f'error: {message}', file=sys.stderr, flush=True)
  jax = sys.modules.get('jax')  # not loaded by commands that only read text
  if jax and jax.distributed.is_initialized():
    # An orderly exit would wait for the other hosts, which wait for this one.
    sys.stdout.flush()
    os._exit(1)
  sys.exit(1)
