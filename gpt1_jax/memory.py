"""How glibc hands out memory to commands that compute.

XLA's CPU backend asks for the temporaries of a step, gigabytes, anew at every
step. As glibc is set, it gives such a block back to the system each time and
has it mapped again page by page, which took a fifth of the step of `mini`: here
it is kept. The price: a block that something small was put into in the meantime
is too short for the next step, and a process comes to hold two or three where
it needs one. (Blocks given back and taken in pages of 2 MB, `hugetlb` alone,
were as fast and cost no memory where the machine's memory was whole; where
other processes had cut it up, the step took half as long again.)

glibc reads such settings when a process starts and not later: `restart` makes a
command start once more, before it has imported anything.
"""

import os
import sys
from collections.abc import Mapping, Sequence

# The commands that compute.
_VERBS = ('pretrain', 'finetune', 'evaluate', 'generate')
_VARIABLE = 'GLIBC_TUNABLES'
_TUNABLES = {
  'mmap_max': 0,
  'trim_threshold': 2**62,
  'arena_max': 1,
  'tcache_count': 0,
  'hugetlb': 1,  # glibc 2.35 and later, where the kernel allows it on request
}


def environment(there: Mapping[str, str]) -> dict[str, str]:
  """`there` with the settings, unless it has some of its own or no glibc."""
  try:
    glibc = os.confstr('CS_GNU_LIBC_VERSION')
  except (AttributeError, OSError, ValueError):
    glibc = None
  if not glibc or _VARIABLE in there:
    return dict(there)
  value = ':'.join(f'glibc.malloc.{k}={v}' for k, v in _TUNABLES.items())
  return {**there, _VARIABLE: value}


def restart(words: Sequence[str]) -> None:
  """Starts this process anew with the settings, if it is to compute.

  Args:
    words: of the command line, the interpreter's first (`sys.orig_argv`).
  """
  words = list(words)
  module = words[words.index('-m') + 1 :][:1] if '-m' in words else []
  if not module or module[0] not in [f'gpt1_jax.{verb}' for verb in _VERBS]:
    return
  wanted = environment(os.environ)
  if wanted != dict(os.environ):
    os.execve(sys.executable, [sys.executable, *words[1:]], wanted)
