"""Rows of zero_shot.jsonl → the plot of P Figure 2, right, as SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure

_HALVES = ('race_middle', 'race_high')


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
  """Zero-shot scores between chance (0) and the reference (1), over updates.

  One line a task; with a single checkpoint, a bar a task. Tasks that have no
  reference, and RACE's halves where the whole is there, are left out.

  Args:
    rows: of zero_shot.jsonl: step, task, normalised.

  Returns:
    An SVG element, to stand in a page or in a file of its own.
  """
  rows = [row for row in rows if row['normalised'] is not None]
  names = list(dict.fromkeys(row['task'] for row in rows))
  if 'race' in names:
    names = [name for name in names if name not in _HALVES]
  steps = {row['step'] for row in rows}
  drawing = figure.Figure(figsize=(8, 4), layout='constrained')
  axes = drawing.subplots()
  if len(steps) > 1:
    for name in names:
      points = sorted(
        (row['step'], row['normalised']) for row in rows if row['task'] == name
      )
      axes.plot(*zip(*points, strict=True), 'o-', label=name)
    axes.set(xlabel='updates')
    if names:
      axes.legend()
  else:
    values = {row['task']: row['normalised'] for row in rows}
    axes.bar(names, [values[name] for name in names], width=0.6)
    axes.set(xlabel=''.join(f'after {step:,} updates' for step in steps))
  for height in (0, 1):
    axes.axhline(height, color='gray', linestyle='--', linewidth=1, zorder=0)
  axes.set(ylabel='zero-shot score (0: chance, 1: reference)')
  axes.grid(alpha=0.3)
  out = io.StringIO()
  drawing.savefig(out, format='svg')
  svg = out.getvalue()
  return svg[svg.index('<svg') :]  # without the XML prologue
