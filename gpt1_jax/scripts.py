"""The console scripts of an installed package: gpt1-pretrain and the others."""

import pathlib
import runpy
import sys

from gpt1_jax import interrupts, memory


def main() -> None:
  """Runs the command in the script's name, as `python -m` does."""
  memory.install()
  interrupts.install()  # before the imports, which take seconds
  name = pathlib.Path(sys.argv[0]).stem.removeprefix('gpt1-')
  runpy.run_module(f'gpt1_jax.{name}', run_name='__main__', alter_sys=True)
