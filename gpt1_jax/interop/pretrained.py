"""Reads initial weights for pretraining, from a run or another program."""

import pathlib

from gpt1_jax import staging, storage
from gpt1_jax.interop import conversion
from gpt1_jax.train import checkpoint

NONE = 'none'  # config.init_from for random weights


def read(source: str, stage_to: str) -> checkpoint.Checkpoint:
  """Reads the weights that config.init_from names.

  Args:
    source: a run, a folder of OpenAI's arrays, or a Hugging Face folder; the
      latter two with their vocabulary.

  Raises:
    UserError: the folder holds none of these, or is damaged.
  """
  run, step = checkpoint.split_step(source)
  if conversion.detect(storage.path(run)) == 'run':
    return checkpoint.read(run, step)
  here = pathlib.Path(staging.fetch(source, stage_to))
  return conversion.as_checkpoint(conversion.read_folder(here), here)[0]
