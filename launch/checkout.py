"""Puts this checkout first on the import path.

Scripts in launch/ import it before `gpt1_jax` and `configs`, so that each runs
from any folder and from any environment that has the dependencies, whether or
not gpt1_jax is installed there.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

if sys.path[:1] != [str(ROOT)]:
  sys.path.insert(0, str(ROOT))


def environment() -> dict[str, str]:
  """Returns os.environ in which `python -m gpt1_jax...` runs this checkout."""
  paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
