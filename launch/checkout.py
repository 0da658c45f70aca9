"""Puts this checkout first on the import path.

Scripts in launch/ import it before `gpt1_jax` and `configs`. They then run from
any folder, in any environment with the dependencies, even if gpt1_jax is not
installed there.
"""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Scripts that end with `cli.run`. As for `python -m gpt1_jax...`, signals are
# handled before the other imports, which take seconds.
COMMANDS = (
  'aot_compile',
  'benchmark',
  'demo',
  'gpu_hour',
  'record',
  'scaling',
  'sweep',
)

if sys.path[:1] != [str(ROOT)]:
  sys.path.insert(0, str(ROOT))

_script = pathlib.Path(sys.argv[0]).resolve()
if _script.parent == ROOT / 'launch' and _script.stem in COMMANDS:
  from gpt1_jax import interrupts, memory

  memory.install()
  interrupts.install()


def environment(*folders: pathlib.Path) -> dict[str, str]:
  """Returns an environment where `python -m gpt1_jax...` runs this checkout.

  Modules in `folders` can also be imported.
  """
  paths = [*map(str, (ROOT, *folders)), os.environ.get('PYTHONPATH', '')]
  return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))}
