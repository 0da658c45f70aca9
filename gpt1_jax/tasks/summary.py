"""Summarises scores over seeds, and formats them as a table."""

import statistics
from collections.abc import Mapping, Sequence

from gpt1_jax.tasks.scores import Failure, Scores, Spread

# fmt: off
HEADER = (
  'task', 'split', 'metric', 'score', 'minimum', 'maximum', 'seeds', 'examples',
)
# fmt: on


def over_seeds(results: Sequence[Scores]) -> Scores:
  """Returns the first run's `Scores`, with each score replaced by the median.

  Adds `spread`, `seeds` and `best_seed`.
  """
  first = results[0]
  spread = {
    split: {
      metric: _spread([result['splits'][split][metric] for result in results])
      for metric in scores
    }
    for split, scores in first['splits'].items()
  }
  medians = {
    split: {metric: found['median'] for metric, found in metrics.items()}
    for split, metrics in spread.items()
  }
  best = max(results, key=lambda result: result['score'])
  return {
    **first,
    'score': medians['dev'][first['metric']],
    'metrics': medians['dev'],
    'splits': medians,
    'spread': spread,
    'remarks': sorted(
      {x for result in results for x in result.get('remarks', [])}
    ),
    'step': None,
    'updates': None,
    'seeds': [result['seed'] for result in results],
    'best_seed': best['seed'],
  }


def rows(results: Mapping[str, Scores | Failure]) -> list[list[str]]:
  """Returns `HEADER` and a row for each task, split and metric."""
  out = [list(HEADER)]
  for name, result in results.items():
    if 'error' in result:
      out.append([name, 'no score', *[''] * (len(HEADER) - 2)])
      continue
    for split, metrics in result['splits'].items():
      for metric, value in metrics.items():
        low = high = value
        if 'spread' in result:
          spread = result['spread'][split][metric]
          low, high = spread['minimum'], spread['maximum']
        percents = [f'{100 * number:.1f}' for number in (value, low, high)]
        count = result['counts'][split]['examples']
        seeds = len(result.get('seeds', [0]))
        out.append([name, split, metric, *percents, str(seeds), f'{count:,}'])
  return out


def markdown(results: Mapping[str, Scores | Failure]) -> str:
  """Formats `rows` as Markdown; failures and remarks follow."""
  notes = [
    f'- {name}: {note}'
    for name, result in results.items()
    for note in (
      [result['error']] if 'error' in result else result.get('remarks', [])
    )
  ]
  notes = ['', *notes, ''] if notes else []
  return aligned(rows(results)) + '\n'.join(notes)


def aligned(table: Sequence[Sequence[str]]) -> str:
  """Formats rows of cells as Markdown; the first row is the header."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  header, *body = table
  lines = [header, ['-' * width for width in widths], *body]
  padded = [map(str.ljust, line, widths) for line in lines]
  return ''.join(f'| {" | ".join(line)} |\n' for line in padded)


def _spread(values: list[float]) -> Spread:
  return {
    'values': values,
    'median': statistics.median(values),
    'minimum': min(values),
    'maximum': max(values),
  }
