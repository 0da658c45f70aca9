"""Memory that XLA's compiler frees and malloc does not give back by itself.

Compiling a train step takes some hundred megabytes for seconds. Freed, they
stay with the process, in pieces that the gigabytes of a step do not fit into,
unless malloc is asked to give them back.
"""

import ctypes
import functools

import jax

# What jax.monitoring calls the seconds that XLA compiled for.
_COMPILED = '/jax/core/compile/backend_compile_duration'
_SECONDS = 0.5  # less leaves little behind


@functools.cache
def give_back_after_compiling() -> None:
  """From now on, after each compilation that took long; glibc alone can."""
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is None:
    return

  def compiled(event: str, seconds: float, **_: object) -> None:
    if event == _COMPILED and seconds >= _SECONDS:
      trim(0)

  jax.monitoring.register_event_duration_secs_listener(compiled)
