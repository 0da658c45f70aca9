"""Scores simple methods without a neural network, for comparison.

A model's score means little beside chance alone: word counts already reach 81%
on SST-2. Every fine-tuning run therefore records what these methods score on
its dev set after fitting on its training set:

- constant: always the commonest class of the training set, or the mean value;
- bag_of_words: logistic regression on word counts, counted separately for the
  two texts of a pair (all tasks with classes);
- word_ngrams: the same on TF-IDF of runs of one to three words;
- tfidf_cosine: the cosine of the two texts' TF-IDF vectors (regression), or the
  answer whose vector is closest to the context's (choice).
"""

import functools
import typing
from collections.abc import Sequence

import numpy as np

from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example
from gpt1_jax.tasks.scores import Metrics

if typing.TYPE_CHECKING:  # scikit-learn takes more than a second to import
  from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

NAMES = {
  'constant': 'commonest class',
  'bag_of_words': 'bag of words',
  'word_ngrams': 'word n-grams',
  'tfidf_cosine': 'TF-IDF cosine',
}
# Printed beside tables of scores.
CAVEAT = (
  'Small models learn word statistics and some syntax from little text; they '
  'can beat word counts on single sentences, but judging how two sentences '
  'relate takes far larger models and corpora, so expect them at or below the '
  'simple methods there.'
)
# More training examples change the scores little and take minutes.
MAX_TRAIN = 100_000
_WORD = r'(?u)\b\w+\b'  # scikit-learn's default skips words of one letter


def score(
  task: Task, train: Sequence[Example], dev: Sequence[Example]
) -> dict[str, Metrics]:
  """Fits the simple methods on `train` and scores them on `dev`.

  Uses at most `MAX_TRAIN` training examples, evenly spaced.

  Returns:
    Name of the method -> the task's metrics. Omits methods that do not apply to
    the task or find no word to count.
  """
  from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

  train = train[:: -(-len(train) // MAX_TRAIN)]
  labels = np.array([example.label for example in dev])
  found = {'constant': _constant(task, train, len(dev))}
  try:
    if task.regression:
      if len(task.texts) == 2:  # a single text has no other to compare with
        found['tfidf_cosine'] = _text_cosines(train, dev)
    elif task.kind == 'choice':
      found['tfidf_cosine'] = _closest_answer(train, dev)
    else:
      counts = CountVectorizer(token_pattern=_WORD)
      found['bag_of_words'] = _regression(counts, 1.0, train, dev)
      ngrams = TfidfVectorizer(
        ngram_range=(1, 3), token_pattern=_WORD, sublinear_tf=True
      )
      found['word_ngrams'] = _regression(ngrams, 10.0, train, dev)
  except ValueError as error:
    if 'empty vocabulary' not in str(error):
      raise
  return {
    name: metrics.score(task.metrics, labels, predictions)
    for name, predictions in found.items()
  }


def best(found: dict[str, Metrics], metric: str) -> tuple[str, float]:
  """Returns the name and the score of the best simple method on a metric."""
  name = max(found, key=lambda name: found[name][metric])
  return NAMES[name], found[name][metric]


def line(found: dict[str, Metrics], metric: str) -> str:
  """Formats the scores of all simple methods on a metric."""
  scores = (f'{NAMES[name]} {found[name][metric]:.4f}' for name in found)
  return f'simple methods on dev: {", ".join(scores)}'


def _constant(task: Task, train: Sequence[Example], count: int) -> np.ndarray:
  labels = np.array([example.label for example in train])
  if task.regression:
    return np.full(count, labels.mean())
  return np.full(count, np.bincount(labels).argmax())


def _regression(
  vectorizer: 'CountVectorizer',
  inverse_penalty: float,
  train: Sequence[Example],
  dev: Sequence[Example],
) -> np.ndarray:
  """Predicts dev's classes by logistic regression on each text's vector."""
  import scipy.sparse
  from sklearn.linear_model import LogisticRegression
  from sklearn.multiclass import OneVsRestClassifier

  labels = [example.label for example in train]
  if len(set(labels)) == 1:  # there is nothing to fit
    return np.full(len(dev), labels[0])
  columns = []
  for number in range(len(train[0].texts)):
    fitted = vectorizer.fit_transform([e.texts[number] for e in train])
    other = vectorizer.transform([e.texts[number] for e in dev])
    columns.append((fitted, other))
  train_x, dev_x = map(scipy.sparse.hstack, zip(*columns, strict=True))
  one = LogisticRegression(solver='liblinear', C=inverse_penalty)
  return OneVsRestClassifier(one).fit(train_x.tocsr(), labels).predict(dev_x)


def _tfidf(train: Sequence[Example]) -> 'TfidfVectorizer':
  from sklearn.feature_extraction.text import TfidfVectorizer

  vectorizer = TfidfVectorizer(token_pattern=_WORD)
  return vectorizer.fit(
    [text for e in train for text in (*e.texts, *e.choices)]
  )


def _cosines(
  vectorizer: 'TfidfVectorizer', first: list[str], second: list[str]
) -> np.ndarray:
  """Returns the cosine of each pair; the vectors have length 1, or 0."""
  a, b = vectorizer.transform(first), vectorizer.transform(second)
  return np.asarray(a.multiply(b).sum(axis=1)).ravel()


def _text_cosines(
  train: Sequence[Example], dev: Sequence[Example]
) -> np.ndarray:
  first, second = ([e.texts[number] for e in dev] for number in (0, 1))
  return _cosines(_tfidf(train), first, second)


def _closest_answer(
  train: Sequence[Example], dev: Sequence[Example]
) -> np.ndarray:
  contexts = [' '.join(e.texts) for e in dev]
  count = len(dev[0].choices)
  cosines = functools.partial(_cosines, _tfidf(train), contexts)
  each = [cosines([e.choices[number] for e in dev]) for number in range(count)]
  return np.argmax(each, axis=0)
