"""Tests the simple methods that are scored for comparison."""

import numpy as np
import pytest

from gpt1_jax.tasks import baselines
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example

REVIEWS = Task('own', 'classification', ('bad', 'good'), ('accuracy', 'f1'))
PAIRS = Task('own', 'similarity', (), ('pearson',), texts=('a', 'b'))
NLI = Task('own', 'entailment', ('yes', 'no', 'maybe'), texts=('a', 'b'))
CHOICE = Task('own', 'choice')


def reviews(texts: dict[str, int]) -> list[Example]:
  return [Example((text,), label=label) for text, label in texts.items()]


def test_words_decide_where_the_commonest_class_cannot():
  train = reviews({
    'a fine film': 1, 'so fine a cast': 1, 'fine and warm': 1,
    'a dull film': 0, 'so dull a cast': 0,
  })  # fmt: skip
  dev = reviews({'fine': 1, 'dull': 0, 'a dull one': 0})
  found = baselines.score(REVIEWS, train, dev)
  assert found['constant'] == {'accuracy': pytest.approx(1 / 3), 'f1': 0.5}
  assert found['bag_of_words'] == {'accuracy': 1.0, 'f1': 1.0}
  assert found['word_ngrams']['accuracy'] == 1.0
  assert baselines.best(found, 'accuracy') == ('bag of words', 1.0)
  assert baselines.line(found, 'accuracy') == (
    'simple methods on dev: commonest class 0.3333, bag of words 1.0000, '
    'word n-grams 1.0000'
  )
  assert set(found) < set(baselines.NAMES)


def test_the_order_of_words_is_seen_by_ngrams_alone():
  orders = {'he saw it': 1, 'saw he it': 0, 'it saw him': 1, 'saw it him': 0}
  found = baselines.score(REVIEWS, reviews(orders), reviews(orders))
  assert found['bag_of_words']['accuracy'] == 0.5
  assert found['word_ngrams']['accuracy'] == 1.0


def test_cosine_of_tfidf_follows_shared_words():
  def pair(a: str, b: str, value: float) -> Example:
    return Example((a, b), label=value)

  dev = [
    pair('a cat sat down', 'a cat sat down', 5.0),
    pair('a cat sat down', 'a cat stood up', 2.0),
    pair('a cat sat down', 'no dog here', 0.0),
  ]
  found = baselines.score(PAIRS, dev, dev)
  assert found['constant'] == {'pearson': 0.0}
  assert found['tfidf_cosine']['pearson'] > 0.95
  assert 'bag_of_words' not in found


def test_a_value_of_one_text_has_the_constant_alone():
  task = Task('own', 'classification', (), ('pearson', 'spearman'))
  train = [Example((text,), label=len(text) / 3) for text in ('a', 'ab', 'abc')]
  found = baselines.score(task, train, train)
  assert found == {'constant': {'pearson': 0.0, 'spearman': 0.0}}


def test_three_classes_of_pairs():
  rows = [
    Example(('it rains', hint), label=label)
    for label, hint in enumerate(('yes it does', 'not at all', 'perhaps'))
  ]
  found = baselines.score(NLI, rows * 4, rows)
  assert found['bag_of_words'] == {'accuracy': 1.0}
  assert found['constant'] == {'accuracy': pytest.approx(1 / 3)}


def test_the_answer_that_shares_the_contexts_words():
  rows = [
    Example(('the red boat sank',), ('a boat sank', 'he ate'), 0),
    Example(('she ate the soup',), ('a boat sank', 'ate soup'), 1),
    Example(('the wind blew',), ('he ate', 'wind blew'), 1),
  ]
  found = baselines.score(CHOICE, rows, rows)
  assert found['tfidf_cosine'] == {'accuracy': 1.0}
  assert found['constant'] == {'accuracy': pytest.approx(2 / 3)}


def test_texts_without_words_leave_the_constant():
  rows = reviews({'!': 0, '?': 1, '...': 1})
  assert set(baselines.score(REVIEWS, rows, rows)) == {'constant'}
  one = reviews({'one class': 1, 'only': 1})
  found = baselines.score(REVIEWS, one, one)
  assert found['bag_of_words'] == {'accuracy': 1.0, 'f1': 1.0}


def test_many_training_examples_are_thinned_evenly(monkeypatch):
  monkeypatch.setattr(baselines, 'MAX_TRAIN', 3)
  rows = reviews({f'word{n}': int(n < 3) for n in range(9)})
  labels = np.array([row.label for row in rows[::3]])
  found = baselines.score(REVIEWS, rows, rows)
  assert labels.tolist() == [1, 0, 0]
  assert found['constant']['accuracy'] == pytest.approx(6 / 9)
