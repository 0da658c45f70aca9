"""scores.json has a checksum of what JSON holds."""

import math

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import score_file


def test_scores_that_are_not_finite_are_read_as_null(tmp_path):
  score_file.write(tmp_path, {'score': math.nan, 'dev': {'f1': math.inf}})
  assert score_file.read(tmp_path) == {'score': None, 'dev': {'f1': None}}


def test_a_changed_digit_is_refused(tmp_path):
  score_file.write(tmp_path, {'score': 0.5})
  file = score_file.path(tmp_path)
  file.write_text(file.read_text().replace('0.5', '0.6'))
  with pytest.raises(UserError, match='damaged'):
    score_file.read(tmp_path)
