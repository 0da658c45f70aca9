"""Runs the pipeline on Apache Beam, an optional and heavy dependency."""

import logging

from gpt1_jax.corpus import preparation
from gpt1_jax.errors import UserError


def engine(options: str) -> preparation.Engine:
  """Returns the Beam engine.

  Args:
    options: pipeline options as on a command line.

  Raises:
    UserError: Beam is not installed, or an option is wrong.
  """
  logging.disable(logging.WARNING)  # Beam warns about the extras it lacks
  try:
    import apache_beam  # noqa: F401
  except ImportError:
    raise UserError(
      "--engine=beam needs Apache Beam: pip install 'gpt1_jax[beam]'"
    ) from None
  else:
    from gpt1_jax.corpus.beam import pipelines, runner
  finally:
    logging.disable(logging.NOTSET)
  return pipelines.BeamEngine(runner.parse_options(options))
