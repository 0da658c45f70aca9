"""Several runs in one: scores over seeds, and a table over tasks."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
  'task',
  'split',
  'metric',
  'score',
  'minimum',
  'maximum',
  'seeds',
  'examples',
)


def over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """What scores.json holds of runs that differ by their seed.

  Args:
    results: what `tuning.Tuning.run` returned, one or more.

  Returns:
    As one of them, with medians for scores; `spread`: split -> metric ->
    values in the order of the seeds, median, minimum and maximum; `seeds`;
    and `best_seed`, that of the highest score on the dev set.
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
    'step': None,
    'seeds': [result['seed'] for result in results],
    'best_seed': best['seed'],
  }


def rows(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
  """`HEADER` and a row for each task, split and metric.

  Args:
    results: task -> what scores.json holds, or {'error': why there is none}.
  """
  out = [list(HEADER)]
  for name, result in results.items():
    if 'error' in result:
      out.append([name, 'no score', *[''] * (len(HEADER) - 2)])
      continue
    for split, metrics in result['splits'].items():
      for metric, value in metrics.items():
        spread = result.get('spread', {}).get(split, {}).get(metric, {})
        ends = [spread.get(key, value) for key in ('minimum', 'maximum')]
        numbers = [f'{100 * number:.1f}' for number in (value, *ends)]
        count = result['counts'][split]['examples']
        seeds = len(result.get('seeds', [0]))
        out.append([name, split, metric, *numbers, str(seeds), f'{count:,}'])
  return out


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
  """The table of `rows`, and below it why a task has no score."""
  reasons = [
    f'- {name}: {result["error"]}'
    for name, result in results.items()
    if 'error' in result
  ]
  reasons = ['', *reasons, ''] if reasons else []
  return aligned(rows(results)) + '\n'.join(reasons)


def aligned(table: Sequence[Sequence[str]]) -> str:
  """Rows of cells, the first being the header, as Markdown."""
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  header, *body = table
  lines = [
    '| '
    + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))
    + ' |\n'
    for row in (header, ['-' * width for width in widths], *body)
  ]
  return ''.join(lines)


def _spread(values: Sequence[float]) -> dict[str, Any]:
  return {
    'values': list(values),
    'median': statistics.median(values),
    'minimum': min(values),
    'maximum': max(values),
  }
