"""Formats the cells of a run's row: scores, splits, origin and settings.

Scores are in percent; several seeds show as median [minimum, maximum].
"""

import pathlib
import statistics
from collections.abc import Iterable, Sequence

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.reporting import paper, runs as runs_lib
from gpt1_jax.reporting.records import RunRecord
from gpt1_jax.tasks import baselines, initialization

Row = dict[str, str]  # column -> cell

NOT_RUN = 'not run'
NOTHING = '–'


def percent(values: Sequence[float]) -> str:
  """Formats the scores of all seeds: '11.4', or '11.4 [9.0, 13.3]'."""
  median, low, high = (
    f'{100 * f(values):.1f}' for f in (statistics.median, min, max)
  )
  return median if len(values) == 1 else f'{median} [{low}, {high}]'


def short(count: float) -> str:
  """Formats a count in thousands, millions or billions: '10.3 M'."""
  for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if count >= size:
      return f'{count / size:.1f} {letter}'
  return str(count)


def chosen(runs: Iterable[RunRecord], variant: str) -> dict[str, RunRecord]:
  """Returns, for each task, the fine-tuning run that fills a row of Table 5.

  The run with the most finished seeds wins; ties go to the last.
  """
  found: dict[str, RunRecord] = {}
  for run in runs:
    if run.command == 'finetune' and run.variant == variant:
      other = found.get(run.task)
      if other is None or len(run.seeds) >= len(other.seeds):
        found[run.task] = run
  return found


def split(run: RunRecord, suffix: str, metric: str) -> str | None:
  """Returns the test split with this suffix if it is scored, else dev."""
  for name in (f'test{suffix}', f'dev{suffix}'):
    if run.values(name, metric):
      return name
  return None


def best_simple(run: RunRecord) -> tuple[str, float] | None:
  """Returns the best simple method and its score; None if the run has none.

  Simple methods are scored on dev by the run's main metric; see
  `tasks.baselines`.
  """
  found = run.scores.get('baselines') if run.scores else None
  if not run.scores or not found:
    return None
  known = {name: found[name] for name in found if name in baselines.NAMES}
  return baselines.best(known, run.scores['metric'])


def simple_method(run: RunRecord) -> Row:
  """Returns the cell of the best simple method; {} if the run has none."""
  best = best_simple(run)
  if not best:
    return {}
  name, value = best
  return {'best simple method (dev)': f'{100 * value:.1f}, {name}'}


def details(
  run: RunRecord, split: str | None, runs: Sequence[RunRecord]
) -> Row:
  """Returns the cells that describe how a score was obtained."""
  return {
    'split': run.examples(split) if split else NOTHING,
    'seeds': str(len(run.seeds)) if run.seeds else NOTHING,
    'pretraining tokens': tokens_seen(run, runs),
    'parameters': short(run.header['parameters']),
    'commit': run.commit,
    'run': run.name,
  }


def origin(run: RunRecord, runs: Sequence[RunRecord]) -> RunRecord | None:
  """Returns the run that a fine-tuning run started from; None if not found."""
  path = storage.resolved(run.header['config']['init_from'])
  for other in runs:
    if other.path == path:
      return other
  try:
    return runs_lib.load(path)
  except UserError:
    return None


def tokens_seen(run: RunRecord, runs: Sequence[RunRecord]) -> str:
  """Formats the number of tokens that the model was pretrained on."""
  if run.command == 'finetune':
    if run.layers is None:
      return 'none'
    source = origin(run, runs)
    return tokens_seen(source, runs) if source else 'unknown'
  if run.command == 'convert':
    return 'trained elsewhere'
  return short(run.pretraining['tokens_seen']) if run.pretraining else run.state


def start(run: RunRecord, runs: Sequence[RunRecord]) -> str:
  """Describes the initial weights of a fine-tuning run."""
  given = run.header['config']['init_from']
  if given == initialization.SCRATCH:
    return 'scratch'
  path = storage.resolved(given)
  source = next((other.name for other in runs if other.path == path), given)
  if run.variant == paper.LAYERS:
    return f'{run.layers} of {run.depth} layers of {source}'
  return source


def corpus(run: RunRecord) -> str:
  """Returns the name of the corpus that a model was pretrained on."""
  if run.command == 'convert':
    return 'trained elsewhere'
  return pathlib.PurePath(run.header['config']['data']['path']).name


def settings(run: RunRecord) -> str:
  """Lists the main hyperparameters of a fine-tuning run."""
  config = run.header['config']
  optim, train = config['optim'], config['train']
  epochs = train['num_epochs']
  length = f'{epochs:g} epoch{"s" * (epochs != 1)}'
  if train['num_steps']:
    length = f'{train["num_steps"]:,} updates'
  if train.get('patience'):
    length += f', patience {train["patience"]}'
  parts = (
    f'rate {optim["peak_lr"]:g}',
    f'warm-up {optim["warmup"]:g}',
    f'batch {config["data"]["batch_size"]}',
    length,
    f'LM {config["head"]["lm_coef"]:g}',
    optim['variant'],
    run.header['model'].get('dtype', 'float32'),
  )
  return ', '.join(parts)
