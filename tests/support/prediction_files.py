"""Reads prediction files and recomputes the scores from them."""

import pathlib

import scipy.stats
import sklearn.metrics

from gpt1_jax.tasks.definition import Task


def read_table(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
  """Returns the header and the rows of a tab-separated file."""
  header, *lines = path.read_text().splitlines()
  return header.split('\t'), [line.split('\t') for line in lines]


def recomputed(task: Task, path: pathlib.Path) -> dict[str, float]:
  """Computes the task's metrics of a prediction file with the libraries."""
  header, lines = read_table(path)
  assert header == ['index', 'label', 'prediction', 'outputs']
  assert [int(line[0]) for line in lines] == list(range(len(lines)))
  labels, guesses = ([float(line[i]) for line in lines] for i in (1, 2))
  found = {
    'accuracy': lambda: sklearn.metrics.accuracy_score(labels, guesses),
    'f1': lambda: sklearn.metrics.f1_score(labels, guesses, zero_division=0),
    'matthews': lambda: sklearn.metrics.matthews_corrcoef(labels, guesses),
    'pearson': lambda: scipy.stats.pearsonr(labels, guesses).statistic,
    'spearman': lambda: scipy.stats.spearmanr(labels, guesses).statistic,
  }
  return {metric: found[metric]() for metric in task.metrics}
