"""Fits a scaling law to our pretraining runs and extrapolates it to GPT-1.

The law is from Hoffmann et al. 2022 (arXiv:2203.15556, equation 2),

  loss(N, D) = E + A / N^alpha + B / D^beta,

in nats per token of held-out text, for N parameters and D training tokens, each
read once. Repeated text counts less with each epoch, as in Muennighoff et al.
2023 (arXiv:2305.16264, equation 5).
"""

import collections
import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np

from gpt1_jax import config as config_lib
from gpt1_jax.reporting import cells, paper, plots, tables
from gpt1_jax.reporting.records import RunRecord

_LEAST = 3  # numbers of parameters, and of tokens for each
_HALF_LIFE = 15.39  # epochs; Muennighoff et al. 2023, R*_D
_HUBER = 1e-3  # of log loss; Hoffmann et al. 2022, appendix D.2
# Starting values of log E, log A, log B, alpha and beta.
_STARTS = [
  (e, a, b, alpha, beta)
  for e in (-1.0, 0.5)
  for a in (2.0, 5.0)
  for b in (2.0, 5.0)
  for alpha in (0.2, 0.5)
  for beta in (0.2, 0.5)
]


@dataclasses.dataclass(frozen=True)
class Point:
  """A finished run: its size, the tokens it read and its validation loss."""

  parameters: int
  tokens: float
  loss: float


@dataclasses.dataclass(frozen=True)
class Law:
  """A fitted law; the attributes are the constants of its formula above."""

  e: float
  a: float
  b: float
  alpha: float
  beta: float

  def loss(self, parameters: float, tokens: float) -> float:
    """Returns the expected loss in nats per token."""
    return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta


@dataclasses.dataclass(frozen=True)
class Study:
  """A fitted law with the runs that it describes.

  Attributes:
    fitted: the runs that the law was fitted to.
    others: finished runs on the same corpus, which the law predicts.
  """

  fitted: Sequence[RunRecord]
  others: Sequence[RunRecord]
  law: Law


def fit(points: Sequence[Point], near: Law | None = None) -> Law:
  """Returns the law with the least Huber loss over the logs of the losses.

  Args:
    near: law to start the search from, such as one fitted to nearly the same
      runs; None tries several starting values and returns the best fit.
  """
  n = np.array([point.parameters for point in points], np.float64)
  d = np.array([point.tokens for point in points], np.float64)
  log_losses = np.log([point.loss for point in points])

  def residuals(theta: np.ndarray) -> np.ndarray:
    log_e, log_a, log_b, alpha, beta = theta
    terms = (
      np.full_like(n, log_e),
      log_a - alpha * np.log(n),
      log_b - beta * np.log(d),
    )
    return np.logaddexp.reduce(terms) - log_losses

  from scipy import optimize  # slow to import; few reports have a law

  bounds = ([-5, -5, -5, 0.01, 0.01], [3, 40, 40, 2, 2])
  starts = _STARTS
  if near:
    logs = (math.log(x) for x in (near.e, near.a, near.b))
    starts = [tuple(np.clip([*logs, near.alpha, near.beta], *bounds))]
  fits = [
    optimize.least_squares(
      residuals, start, bounds=bounds, loss='huber', f_scale=_HUBER
    )
    for start in starts
  ]
  best = min(fits, key=lambda each: each.cost)
  log_e, log_a, log_b, alpha, beta = map(float, best.x)
  return Law(math.exp(log_e), math.exp(log_a), math.exp(log_b), alpha, beta)


def effective_tokens(tokens: float, epochs: float) -> float:
  """Returns the number of unique tokens that several epochs are worth."""
  repeats = max(epochs - 1, 0.0)
  return tokens * (1 + _HALF_LIFE * (1 - math.exp(-repeats / _HALF_LIFE)))


def grid(runs: Sequence[RunRecord]) -> list[RunRecord]:
  """Returns the runs to fit; empty if no law can be fitted.

  They share corpus, tokenizer, context, initial weights, optimiser and batch,
  and have at least three numbers of parameters with the same three or more
  numbers of tokens each. Of several such groups, returns the largest.
  """
  groups = collections.defaultdict(list)
  for run in runs:
    if _usable(run):
      groups[_text(run), _settings(run)].append(run)
  grids = [_complete(group) for group in groups.values()]
  return max(grids, key=len, default=[])


def study(runs: Sequence[RunRecord]) -> Study | None:
  """Fits a law to the grid of runs; returns None if there is no grid."""
  fitted = grid(runs)
  if not fitted:
    return None
  others = [
    run
    for run in runs
    if _usable(run) and run not in fitted and _text(run) == _text(fitted[0])
  ]
  return Study(fitted, others, fit([_point(run) for run in fitted]))


def formula(law: Law) -> str:
  """Returns the fitted law in one line."""
  return (
    f'loss = {law.e:.4f} + {law.a:.4g} / parameters^{law.alpha:.4f} + '
    f'{law.b:.4g} / tokens^{law.beta:.4f}'
  )


def table(study: Study) -> tables.Table:
  """Lists the losses of the fit, of other runs on its corpus, and of GPT-1."""
  rows = [_row(run, study.law, 'fitted') for run in study.fitted]
  rows += [_row(run, study.law, 'predicted') for run in study.others]
  rows += _gpt1_rows(study)
  return tables.Table('Fitted law and runs: loss in nats per token', rows)


def lines(study: Study) -> list[plots.Line]:
  """Returns two lines per size: losses over tokens, and the law (dashed)."""
  points = [_point(run) for run in study.fitted]
  least = min(point.tokens for point in points)
  most = max(point.tokens for point in points)
  out = []
  for number, size in enumerate(sorted({p.parameters for p in points})):
    of_size = sorted((p.tokens, p.loss) for p in points if p.parameters == size)
    curve = [
      (float(tokens), study.law.loss(size, tokens))
      for tokens in np.geomspace(least, 10 * most, 50)
    ]
    label = f'{cells.short(size)} parameters'
    out.append(plots.Line(label, of_size, number, marks=True))
    out.append(plots.Line(f'{label}, law', curve, number, dashed=True))
  return out


def _usable(run: RunRecord) -> bool:
  """Returns True for a finished GPT that was pretrained from scratch."""
  if run.command != 'pretrain' or not run.pretraining or run.is_lstm:
    return False
  done = run.pretraining
  counted = min(run.header['parameters'], done['tokens_seen']) > 0
  measured = min(done['eval_perplexity'], done['eval_word_perplexity']) > 1
  return counted and measured and _start(run) in config_lib.FROM_SCRATCH


def _start(run: RunRecord) -> str:
  """Returns what the weights were; older runs do not have the setting."""
  return run.header['config'].get('init_from', 'none')


def _text(run: RunRecord) -> tuple[str, ...]:
  """Returns the tokenizer, corpus and context of a run, to compare them."""
  header = run.header
  return (
    str(header.get('tokenizer_fingerprint')),
    str(header.get('data_fingerprint') or header['config']['data']['path']),
    str(header['model'].get('n_ctx')),
  )


def _settings(run: RunRecord) -> str:
  """Returns the start, optimiser and batch of a run, to compare them."""
  config = run.header['config']
  settings = _start(run), config['optim'], config['data']['batch_size']
  return json.dumps(settings, sort_keys=True)


def _complete(runs: Sequence[RunRecord]) -> list[RunRecord]:
  """Returns the runs of each size that was trained for every token count."""
  found: dict[int, dict[float, RunRecord]] = collections.defaultdict(dict)
  for run in runs:
    point = _point(run)
    found[point.parameters][point.tokens] = run
  counts = collections.Counter(t for each in found.values() for t in each)
  amounts = {t for t, count in counts.items() if count >= _LEAST}
  sizes = [size for size in sorted(found) if amounts <= found[size].keys()]
  if len(sizes) < _LEAST or len(amounts) < _LEAST:
    return []
  return [found[size][t] for size in sizes for t in sorted(amounts)]


def _point(run: RunRecord) -> Point:
  assert run.pretraining
  return Point(
    run.header['parameters'],
    run.pretraining['tokens_seen'],
    math.log(run.pretraining['eval_perplexity']),
  )


def _row(run: RunRecord, law: Law, role: str) -> cells.Row:
  point = _point(run)
  expected = law.loss(point.parameters, point.tokens)
  return {
    'run': run.name,
    'loss': f'{point.loss:.3f}',
    'law': f'{expected:.3f}',
    'perplexity per token': f'{math.exp(point.loss):.1f}',
    'parameters': cells.short(point.parameters),
    'tokens': cells.short(point.tokens),
    'role': role,
    'commit': run.commit,
  }


def _gpt1_rows(study: Study) -> list[cells.Row]:
  """Returns the prediction for GPT-1, and its range if one run is left out."""
  points = [_point(run) for run in study.fitted]
  laws = [study.law]
  laws += [
    fit([*points[:i], *points[i + 1 :]], near=study.law)
    for i in range(len(points))
  ]
  unique = paper.CORPUS_WORDS * _tokens_per_word(study.fitted[-1])
  rows = []
  for epochs in (1, paper.EPOCHS):
    tokens = effective_tokens(unique, epochs)
    losses = [law.loss(paper.PARAMETERS, tokens) for law in laws]
    best, low, high = (
      f'{math.exp(loss):.1f}' for loss in (losses[0], min(losses), max(losses))
    )
    name = f'GPT-1, {epochs} epoch{"s" * (epochs != 1)} of BooksCorpus'
    rows.append(
      {
        'run': name,
        'law': f'{losses[0]:.3f}',
        'perplexity per token': f'{best} [{low}, {high}]',
        'parameters': cells.short(paper.PARAMETERS),
        'tokens': f'{cells.short(tokens)} effective',
        'role': 'extrapolated',
      }
    )
  return rows


def _tokens_per_word(run: RunRecord) -> float:
  assert run.pretraining
  return math.log(run.pretraining['eval_word_perplexity']) / math.log(
    run.pretraining['eval_perplexity']
  )
