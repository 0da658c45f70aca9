"""Runs a Beam pipeline, and says what went wrong in it in one line."""

import contextlib
import io
import logging
import re
import shlex
import traceback
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options
from apache_beam.runners import runner as runner_lib

from gpt1_jax.errors import UserError

# What workers raise comes back as text, with the step it happened in.
_USER_ERROR = re.compile(
  r'gpt1_jax\.errors\.UserError: (.*?)(?: \[while running .*)?$', re.MULTILINE
)
_OS_ERROR = re.compile(
  r"\w+Error: \[Errno (\d+)\] ([^:'\[\n]*[^:'\[\n ])(?:: '([^'\n]*)')?"
)


def options_of(text: str) -> pipeline_options.PipelineOptions:
  """Options as on a command line, such as `--runner=FlinkRunner`.

  Raises:
    UserError: they cannot be read.
  """
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      options = pipeline_options.PipelineOptions(shlex.split(text))
      options.get_all_options()
  except ValueError as error:
    raise UserError(f'--beam_options={text}: {error}') from None
  except SystemExit:
    line = said.getvalue().strip().splitlines()[-1]
    raise UserError(f'--beam_options: {line}') from None
  standard = options.view_as(pipeline_options.StandardOptions)
  standard.no_wait_until_finish = False
  # There are no triggers here. With this the DirectRunner stays in this
  # process, where it would else download another runner and try that first.
  types = options.view_as(pipeline_options.TypeOptions)
  types.allow_unsafe_triggers = True
  filesystems.FileSystems.set_options(options)  # inputs are listed before it
  return options


@contextlib.contextmanager
def pipeline(
  options: pipeline_options.PipelineOptions,
) -> Iterator[beam.Pipeline]:
  """A pipeline to be filled; leaving the context runs it to its end.

  Raises:
    UserError, OSError: what a worker raised, as it raised it.
    UserError: the runner cannot be had.
  """
  try:
    made = beam.Pipeline(options=options)
  except (AttributeError, ImportError, ValueError) as error:
    line = ' '.join(str(error).split())
    raise UserError(f'--beam_options: {line}') from None
  with _without_tracebacks():
    try:
      with made:
        yield made
    except KeyboardInterrupt:
      with contextlib.suppress(Exception):  # it may not have begun
        made.result.cancel()
      raise
    except Exception as error:
      cause = _cause(''.join(traceback.format_exception(error)))
      if cause is None:
        raise
      raise cause from None
  state = made.result.state
  if state != runner_lib.PipelineState.DONE:
    raise UserError(f'the pipeline ended as {state}; see the log of the runner')


def _cause(text: str) -> Exception | None:
  """What a worker raised, out of a traceback; None: neither of the two."""
  found = _USER_ERROR.search(text)
  if found:
    return UserError(found[1])
  found = _OS_ERROR.search(text)
  if found:
    return OSError(int(found[1]), found[2], found[3])
  return None


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
  """Beam logs a worker's error at each level; it is raised all the same."""

  def is_news(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else ''
    return '[while running' not in f'{record.getMessage()} {raised}'

  handlers = list(logging.getLogger().handlers)
  for handler in handlers:
    handler.addFilter(is_news)
  try:
    yield
  finally:
    for handler in handlers:
      handler.removeFilter(is_news)
