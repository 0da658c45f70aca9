"""Prepares small corpora, as a command and in this process."""

import functools
import os
import pathlib

from gpt1_jax.corpus import local_engine, preparation, shards
from tests.support import commands

FLAGS = ('--merges=60', '--validation_fraction=0.25', '--workers=1')
prepare = functools.partial(commands.succeed, 'prepare')
refused = functools.partial(commands.fail, 'prepare')


def splits(output: pathlib.Path) -> dict[str, str]:
  """Returns file name of each document -> its split."""
  return {
    os.path.basename(row.source): row.split
    for row in shards.read_documents(output)
  }


def fill(directory: pathlib.Path, settings) -> dict[str, str]:
  """Prepares in this process; returns the split of each document."""
  directory.mkdir()
  preparation.fill(directory, settings, local_engine.LocalEngine(1))
  return splits(directory)
