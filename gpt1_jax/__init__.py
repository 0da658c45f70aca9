"""GPT-1 in JAX: from raw books to a table of task scores."""

import sys

from gpt1_jax import memory

__version__ = '0.1.0'

memory.restart(sys.orig_argv)
