"""Returns memory freed by XLA's compiler to the operating system.

Compiling a train step briefly takes hundreds of megabytes. malloc keeps the
freed memory, in fragments too small for the arrays of a step.
"""

import ctypes
import functools

import jax

# jax.monitoring event that reports the duration of an XLA compilation.
COMPILED = '/jax/core/compile/backend_compile_duration'
_SECONDS = 0.5  # seconds; shorter compilations free little memory


@functools.cache
def trim_after_compiling() -> None:
  """Calls malloc_trim after compilations longer than 0.5 s (glibc only)."""
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is None:
    return

  def compiled(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del kwargs
    if event == COMPILED and duration_secs >= _SECONDS:
      trim(0)

  jax.monitoring.register_event_duration_secs_listener(compiled)
