"""GPT-1 in JAX: from raw books to a table of task scores.

`gpt1_jax.load(path)` returns a trained model; see `inference.loading.Run`.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from gpt1_jax.inference.loading import Run, load

__version__ = '0.1.0'
__all__ = ['Run', 'load']

# `python -m gpt1_jax.COMMAND` imports this package first, then the command,
# whose own imports take seconds.
if sys.argv[:1] == ['-m'] and any(
  word.startswith('gpt1_jax.') for word in sys.orig_argv
):
  from gpt1_jax import interrupts, memory

  memory.install()
  interrupts.install()


def __dir__() -> list[str]:
  """Lists what `__getattr__` imports, too."""
  return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
  """Imports jax and the model only once they are used."""
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from gpt1_jax.inference import loading

  return getattr(loading, name)
