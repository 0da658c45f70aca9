"""The front doors' shared parts: sections, counts, one-line errors."""

import pytest

from gpt1_jax import cli
from gpt1_jax.errors import UserError


def test_a_section_has_one_consumer_and_no_defaults():
  def consumer(*, a, b):
    return a, b

  assert cli.fill('x', consumer, {'a': 1}, b=2) == (1, 2)
  for values, words in (
    ({'a': 1, 'c': 2}, 'config.x.c: nothing takes it; keys are a'),
    ({}, 'config.x.a is missing'),
    ({'a': None}, 'config.x.a is not set'),
  ):
    with pytest.raises(UserError, match=words):
      cli.fill('x', consumer, values, b=2)


def test_exactly_one_of_steps_and_epochs():
  assert cli.num_steps(7, 0, 100.0) == 7
  assert cli.num_steps(0, 1.5, 100.0) == 150
  for steps, epochs in ((0, 0), (5, 1.0)):
    with pytest.raises(UserError, match='exactly one'):
      cli.num_steps(steps, epochs, 100.0)
