"""How glibc hands out memory to commands that compute.

XLA's CPU backend asks for the temporaries of a step, gigabytes, anew at every
step. As glibc is set, it gives such a block back to the system each time, and
having it mapped again page by page took a fifth of the step of `mini`: here it
is kept. So processes of the full width grew by a block at each of the first
steps, to three times what they needed; without the threads' caches
(`tcache_count`) they did so seldom. Why is not known: a guess is that pieces
split off the ends of aligned blocks waited there, and left a block's place a
few bytes short. With an asynchronous checkpoint, and in fine-tuning, a run of
the full width was still ended for want of memory. Pages of 2 MB in place of
4 kB took 7% off the processor time of a step, in the one comparison made.

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
