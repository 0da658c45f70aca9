"""Defines what all commands share: flags, configuration and one-line errors.

`run(main)` is the last line of every command. An error becomes one line on
stderr. The exit code is 2 for a mistake of the user (`UserError`, a missing
file), 1 for a failure (`RunError`, a full disk, an unreachable bucket), 75 for
a signal (`interrupts`), 141 without a line if the reader of stdout has gone.
Any other exception is a bug and keeps its traceback.
"""

import ast
import contextlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from absl import app, flags, logging

import gpt1_jax
from gpt1_jax import (
  config,
  errors,
  interrupts,
  staging,
  storage,
  terminal,
  usage,
)
from gpt1_jax.memory import explain_shortage

_CLUSTER = {'JAX_NUM_PROCESSES', 'SLURM_STEP_NODELIST', 'OMPI_COMM_WORLD_SIZE'}
_is_cluster = bool(
  _CLUSTER & set(os.environ)
  or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')
)
# JAX's coordination service logs a lost host in many lines. We print one.
_log_level = os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1')
if _is_cluster and _log_level == '1':  # JAX's own default
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # read when jax is imported

_INSTALLED = pathlib.Path(__file__).resolve().with_name('presets')
# Folder that holds configs/: inside an installed package, else the checkout.
_HOME = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1]
_SETTING = '--config.'
# Control characters of names that the user gives, but not the line breaks of
# an error for each setting.
_CONTROLS = re.compile(r'[\x00-\x09\x0b-\x1f\x7f]|\n(?!  )')
_settings: list[tuple[str, str]] = []  # each --config.KEY=VALUE
T = TypeVar('T')


def run(main: Callable[[], None], is_run: bool = False) -> None:
  """Runs a command under absl; prints user errors as one line.

  With `is_run`, the command trains: it continues when its terminal closes.
  """
  terminal.ensure_utf8()
  interrupts.install()
  terminal.guard_streams()

  def guarded(argv: list[str]) -> None:
    terminal.plain_warnings()
    if len(argv) > 1:
      _fail(f'unexpected argument {argv[1]!r}: write --name=value; see --help')
    interrupts.enter(interrupts.Phase.RAISE)
    try:
      with _one_line_errors():
        if 'print_config' in flags.FLAGS and flags.FLAGS.print_config:
          config.check(values := config_values(flags.FLAGS.config))
          print(config.as_flags(values))
        else:
          if is_run:
            terminal.outlive()
          with interrupts.unwrapped():
            main()
        print(end='', flush=True)
    finally:
      interrupts.ignore()  # nothing is left to clean up

  logging.set_verbosity(logging.WARNING)
  app.run(guarded, flags_parser=_parse_flags)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
  """Ends the command with one line for every error but a bug."""
  try:
    yield
  except errors.Stopped as stopped:
    print(stopped, file=sys.stderr, flush=True)
    leave(interrupts.EXIT_CODE, together=True)
  except Exception as error:
    if terminal.reader_is_gone(error):
      leave(terminal.READER_GONE)
    if line := explain_shortage(error) or storage.bucket_error(error):
      _fail(line, errors.RunError.exit_code)
    if isinstance(error, errors.UserError | OSError):
      _fail(*errors.describe(error))
    raise


@_one_line_errors()
def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags and collects the --config.KEY=VALUE ones."""
  rest, arguments = argv[:1], iter(argv[1:])
  for argument in argv:
    storage.check_utf8(argument)
  for argument in arguments:
    if 'config' in flags.FLAGS and argument.startswith(_SETTING):
      key, equals, value = argument.removeprefix(_SETTING).partition('=')
      _settings.append((key, value if equals else next(arguments, '')))
    else:
      rest.append(argument)
  if {'--help', '-help', '-h', '-?'} & set(rest[1:]):
    usage.print_help()
    sys.exit(0)
  if '--version' in rest[1:]:
    print(f'gpt1_jax {gpt1_jax.__version__}')
    sys.exit(0)
  try:
    rest = flags.FLAGS(rest)
  except flags.Error as error:
    # A parse error leaves the flags behind it without their values.
    missing = flags.FLAGS.is_parsed() and usage.missing()
    _fail(missing or f'{error}; see --help')
  for name in flags.FLAGS:  # an empty path would mean the working directory
    if flags.FLAGS[name].present and flags.FLAGS[name].value in ('', []):
      _fail(f'--{name} is empty; see --help')
  return rest


def define_config(default: str, help_text: str) -> flags.FlagHolder[str]:
  """Defines --config=FILE[:WORDS], its overrides and --print_config.

  --config.KEY=VALUE overrides a setting.
  """
  flags.DEFINE_bool(
    'print_config', False, 'Print every setting of --config and exit.'
  )
  return flags.DEFINE_string('config', default, help_text)


def define_workdir() -> flags.FlagHolder[str | None]:
  return flags.DEFINE_string(
    'workdir',
    None,
    'Run directory: created if missing, resumed if it holds this run.',
  )


def define_step() -> flags.FlagHolder[int | None]:
  """Defines --checkpoint=STEP, also called --step."""
  holder = flags.DEFINE_integer(
    'checkpoint', None, 'Checkpoint step; default: the best, else the latest.'
  )
  flags.DEFINE_alias('step', 'checkpoint')
  return holder


def define_profile() -> flags.FlagHolder[str | None]:
  return flags.DEFINE_string(
    'profile',
    None,
    'START:STEPS: trace STEPS updates from update START into WORKDIR/profile, '
    'for XProf. Update 1 includes compilation.',
  )


def define_stage_to() -> flags.FlagHolder[str]:
  return flags.DEFINE_string(
    'stage_to',
    staging.STAGE_TO,
    'Local folder for copies of data from a bucket (gs://); each is copied '
    'once and then reused.',
  )


def config_values(spec: str) -> config.Values:
  """Returns a configuration as plain nested values, with flags applied.

  ml_collections' own flags stop at the first error. Here unknown keys and
  wrong types are kept, so that `config.parse` reports all errors at once.

  Args:
    spec: value of --config: a file that defines `get_config`, optionally
      followed by a colon and the function's argument.

  Raises:
    UserError: the file, preset or task does not exist.
  """
  name, colon, words = spec.partition(':')
  found = pathlib.Path(storage.expanded(name))
  if not found.is_absolute() and not found.exists():
    found = _HOME / name
  if not found.is_file():
    raise errors.UserError(f'--config={spec}: no such file: {name}; see --help')
  module_spec = importlib.util.spec_from_file_location(found.stem, found)
  assert module_spec is not None
  assert module_spec.loader is not None
  module = importlib.util.module_from_spec(module_spec)
  if str(_HOME) not in sys.path:
    sys.path.append(str(_HOME))  # configs may import one another
  try:
    module_spec.loader.exec_module(module)
    values = module.get_config(*[words] * bool(colon)).to_dict()
  except ValueError as error:
    raise errors.UserError(f'--config={spec}: {error}') from None
  except Exception as error:  # whatever the user's file raises
    raise errors.UserError(
      f'--config={spec}: {name} does not run ({type(error).__name__}: {error})'
    ) from None
  for key, text in _settings:
    _set(values, key, text)
  if 'optim.warmup' in dict(_settings):
    config.check_warmup(values)
  return values


def _set(values: config.Values, key: str, text: str) -> None:
  """Sets a dotted key; parses the text unless the current value is a string."""
  *sections, last = key.split('.')
  for section in sections:
    inner = values.get(section)
    if not isinstance(inner, dict):
      inner = values[section] = {}
    values = inner
  if last in values and (values[last] is None or isinstance(values[last], str)):
    values[last] = text
    return
  try:
    values[last] = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    values[last] = text


def given() -> dict[str, object]:
  """Returns the flags and settings of the command line, by name."""
  found = {
    name: flags.FLAGS[name].value
    for name in flags.FLAGS
    if flags.FLAGS[name].present
  }
  return found | {f'config.{key}': text for key, text in _settings}


def read_config(kind: type[T], spec: str) -> T:
  """Returns the validated configuration.

  Raises:
    UserError: the configuration is invalid; one line per error.
  """
  return config.parse(kind, config_values(spec))


def say_first(line: str) -> None:
  """Prints what a command is about to do, before it imports JAX.

  Prints nothing on a cluster, where every host would print it.
  """
  if not _is_cluster:
    print(f'{line}; loading JAX', file=sys.stderr, flush=True)


def required(flag: str, value: str | None) -> str:
  """Returns the value of a flag that this call of the command requires.

  Raises:
    UserError: the flag is not set.
  """
  if not value:
    raise errors.UserError(usage.missing_flag(flag))
  return value


def _fail(message: str, code: int = errors.UserError.exit_code) -> NoReturn:
  line = _CONTROLS.sub(lambda found: repr(found[0])[1:-1], message)
  print(f'error: {line}', file=sys.stderr, flush=True)
  leave(code)


def leave(code: int, together: bool = False) -> NoReturn:
  """Exits at once, even while the devices still compute.

  If jax is loaded, skips Python's own shutdown: it would free objects that
  XLA's threads may be using, and wait for the other hosts.

  Args:
    code: the exit code.
    together: True waits for the other hosts, which also stop.
  """
  if 'jaxlib' not in sys.modules:  # a command that only reads text
    sys.exit(code)
  if together and (jax := sys.modules.get('jax')):
    jax.distributed.shutdown()  # does nothing on a single host
  with contextlib.suppress(OSError):  # the reader of stdout is gone
    sys.stdout.flush()
  os._exit(code)
