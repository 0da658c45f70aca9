"""GPT-1 in JAX: from raw books to a table of task scores."""

__version__ = '0.1.0'
