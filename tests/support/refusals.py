"""Expects an error that a user can read: one line, at the right place."""

import contextlib
from collections.abc import Iterator

import pytest

from gpt1_jax.errors import UserError


@contextlib.contextmanager
def refused(*words: str, start: object = '') -> Iterator[None]:
  """Expects a UserError of one line that begins so and contains `words`."""
  with pytest.raises(UserError) as caught:
    yield
  said = str(caught.value)
  assert '\n' not in said
  assert said.startswith(str(start)), said
  for word in words:
    assert word in said, said
