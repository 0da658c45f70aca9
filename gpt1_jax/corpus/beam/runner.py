"""Runs a Beam pipeline and reports its errors in one line."""

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
from apache_beam.runners import runner as beam_runner

from gpt1_jax.errors import Stopped, UserError

# A worker's error arrives as text, followed by the step that raised it.
_USER_ERROR = re.compile(
  r'gpt1_jax\.errors\.UserError: (.*?)(?: \[while running .*)?$', re.MULTILINE
)
_OS_ERROR = re.compile(
  r"\w+Error: \[Errno (\d+)\] ([^:'\[\n]*[^:'\[\n ])(?:: '([^'\n]*)')?"
)


def parse_options(text: str) -> pipeline_options.PipelineOptions:
  """Parses options as on a command line, such as `--runner=FlinkRunner`.

  Raises:
    UserError: an option cannot be parsed.
  """
  output = io.StringIO()
  try:
    with contextlib.redirect_stderr(output):
      options = pipeline_options.PipelineOptions(shlex.split(text))
      options.get_all_options()
  except ValueError as error:
    raise UserError(f'--beam_options={text}: {error}') from None
  except SystemExit:
    line = output.getvalue().strip().splitlines()[-1]
    raise UserError(f'--beam_options: {line}') from None
  standard = options.view_as(pipeline_options.StandardOptions)
  standard.no_wait_until_finish = False
  # The pipelines have no triggers. Allowing them keeps the DirectRunner in this
  # process; otherwise it first downloads and tries another runner.
  types = options.view_as(pipeline_options.TypeOptions)
  types.allow_unsafe_triggers = True
  filesystems.FileSystems.set_options(options)  # for files outside a pipeline
  return options


@contextlib.contextmanager
def pipeline(
  options: pipeline_options.PipelineOptions,
) -> Iterator[beam.Pipeline]:
  """Yields a pipeline to build; runs it to its end when the context exits.

  Raises:
    UserError: a worker raised it, there is no such runner, or the pipeline was
      cancelled or failed.
    OSError: a worker raised it.
  """
  try:
    built = beam.Pipeline(options=options)
  except (AttributeError, ImportError, ValueError) as error:
    line = ' '.join(str(error).split())
    raise UserError(f'--beam_options: {line}') from None
  with _without_tracebacks():
    try:
      with built:
        yield built
    except (KeyboardInterrupt, Stopped):
      with contextlib.suppress(Exception):  # it may not have started
        built.result.cancel()
      raise
    except Exception as error:
      cause = find_cause(''.join(traceback.format_exception(error)))
      if cause is None:
        raise
      raise cause from None
  state = built.result.state
  if state != beam_runner.PipelineState.DONE:
    raise UserError(f'the pipeline ended as {state}; see the log of the runner')


def find_cause(text: str) -> UserError | OSError | None:
  """Extracts a worker's UserError or OSError from the text of a traceback."""
  found = _USER_ERROR.search(text)
  if found:
    return UserError(found[1])
  found = _OS_ERROR.search(text)
  if found:
    return OSError(int(found[1]), found[2], found[3])
  return None


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
  """Silences Beam's logs of a worker's error, which is raised anyway."""

  def is_other(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else ''
    return '[while running' not in f'{record.getMessage()} {raised}'

  handlers = list(logging.getLogger().handlers)
  for handler in handlers:
    handler.addFilter(is_other)
  try:
    yield
  finally:
    for handler in handlers:
      handler.removeFilter(is_other)
