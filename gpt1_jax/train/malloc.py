"""Returns memory that XLA's compiler freed to the operating system.

Compiling a train step takes hundreds of megabytes for seconds. malloc keeps
the freed pages, in pieces too small for the arrays of a step.
"""

import ctypes
import functools

import jax

# The event in which jax.monitoring reports the seconds XLA compiled for.
_COMPILED = '/jax/core/compile/backend_compile_duration'
_SECONDS = 0.5  # shorter compilations leave little behind


@functools.cache
def trim_after_compiling() -> None:
  """Calls malloc_trim after compilations longer than 0.5 s (glibc only)."""
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is None:
    return

  def compiled(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del kwargs
    if event == _COMPILED and duration_secs >= _SECONDS:
      trim(0)

  jax.monitoring.register_event_duration_secs_listener(compiled)
