"""Asserts an error that a user can read: one line, at the right place."""

import contextlib
from collections.abc import Iterator

import pytest

from gpt1_jax.errors import UserError


@contextlib.contextmanager
def assert_refused(
  word: str, *words: str, start: object = ''
) -> Iterator[None]:
  """Asserts that the block raises a UserError of one line.

  Args:
    word: text that the line contains.
    *words: more such text.
    start: the beginning of the line, such as a file and its line number.
  """
  with pytest.raises(UserError) as caught:
    yield
  message = str(caught.value)
  assert '\n' not in message
  assert message.startswith(str(start)), message
  for expected in (word, *words):
    assert expected in message, message
