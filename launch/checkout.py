"""Puts this checkout first on the import path.

Scripts in launch/ import it before `gpt1_jax` and `configs`. They then run from
any folder, in any environment with the dependencies, even if gpt1_jax is not
installed there.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

if sys.path[:1] != [str(ROOT)]:
  sys.path.insert(0, str(ROOT))


def environment(*folders: pathlib.Path) -> dict[str, str]:
  """Returns an environment where `python -m gpt1_jax...` runs this checkout.

  Modules in `folders` can also be imported.
  """
  paths = [*map(str, (ROOT, *folders)), os.environ.get('PYTHONPATH', '')]
  return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
