"""Runs → tables, curves and the page that `report` writes."""

import html
import io
import pathlib
from typing import Any

from matplotlib import figure

from gpt1_jax.train import run as run_lib, telemetry

_POINTS = 500  # of a curve, at most
_STYLE = """
:root{color-scheme:light dark;--line:#8886}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem}
body{margin:auto;padding:1rem}
div{overflow-x:auto}table{border-collapse:collapse}
td,th{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:left}
svg{max-width:100%;height:auto;background:#fff;border-radius:6px}
pre{white-space:pre-wrap}
"""


def load(name: str) -> dict[str, Any]:
  """A run: config.json, rows of metrics.jsonl, scores.json or None.

  Raises:
    UserError: the folder holds no run.
  """
  path = pathlib.Path(name)
  facts = run_lib.load(name)
  scores = path / 'scores.json'
  samples = path / 'samples.txt'
  return {
    'name': name,
    **facts,
    'rows': telemetry.read_rows(path / 'metrics.jsonl'),
    'scores': run_lib.read_json(scores) if scores.exists() else None,
    'samples': samples.read_text(encoding='utf-8') if samples.exists() else '',
  }


def make_tables(runs: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
  """Title → rows of cells, the first being the header."""
  pretraining = [
    [
      'run',
      'parameters',
      'updates',
      'tokens seen',
      'perplexity a token (validation)',
      'perplexity a word',
      'commit',
    ]
  ]
  finetuning = [
    ['run', 'task', 'from', 'seed', 'metric', 'score', 'split', 'commit']
  ]
  for run in runs:
    s = run['scores']
    commit = run['commit'] or 'unknown'
    if run['command'] in ('pretrain', 'convert'):
      here = run['command'] == 'pretrain'
      cells = ['not finished' if here else 'trained elsewhere'] * 4
      if s:
        cells = [
          f'{s["step"]:,}',
          f'{s["tokens_seen"]:,}',
          f'{s["eval_perplexity"]:.2f}',
          f'{s["eval_word_perplexity"]:.2f}',
        ]
      row = [run['name'], f'{run["parameters"]:,}', *cells, commit]
      pretraining.append(row)
    else:
      cells = ['not finished'] * 3
      if s:
        split = f'{s["split"]}, {s["examples"]} examples'
        cells = [s['metric'], f'{s["score"]:.4f}', split]
      config = run['config']
      task = config['task']
      task = task['name'] if isinstance(task, dict) else task
      start = config['init_from']
      start = 'scratch' if start == 'none' else start
      seed = str(config['train']['seed'])
      finetuning.append([run['name'], task, start, seed, *cells, commit])
  tables = {'Pretraining': pretraining, 'Fine-tuning': finetuning}
  return {title: rows for title, rows in tables.items() if len(rows) > 1}


def markdown(tables: dict[str, list[list[str]]]) -> str:
  """The tables as Markdown."""
  out = []
  for title, (header, *rows) in tables.items():
    out += [f'## {title}', '']
    for row in (header, ['---'] * len(header), *rows):
      out.append('| ' + ' | '.join(c.replace('|', '\\|') for c in row) + ' |')
    out.append('')
  return '\n'.join(out)


def page(tables: dict[str, list[list[str]]], runs: list[dict[str, Any]]) -> str:
  """The whole page; everything that comes from a run is escaped."""
  e = html.escape
  body = ['<h1>gpt1_jax: report</h1>']
  for title, (header, *rows) in tables.items():
    head = ''.join(f'<th>{e(c)}</th>' for c in header)
    lines = ''.join(
      '<tr>' + ''.join(f'<td>{e(c)}</td>' for c in row) + '</tr>'
      for row in rows
    )
    body.append(f'<h2>{title}</h2><div><table><tr>{head}</tr>{lines}</table>')
    body.append('</div>')
  for title, kind in (('Pretraining', 'pretrain'), ('Fine-tuning', 'finetune')):
    curves = [r for r in runs if r['command'] == kind and r['rows']]
    if curves:
      body.append(f'<h2>{title}: loss</h2>{plot(curves)}')
  for run in runs:
    if run['samples']:
      body.append(f'<h2>Samples of {e(run["name"])}</h2>')
      body.append(f'<pre>{e(run["samples"])}</pre>')
  return (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    f'<title>gpt1_jax: report</title><style>{_STYLE}</style>'
    + ''.join(body)
    + '</html>\n'
  )


def plot(runs: list[dict[str, Any]]) -> str:
  """Inline SVG: training loss as lines, validation loss as points."""
  drawing = figure.Figure(figsize=(8, 4), layout='constrained')
  axes = drawing.subplots()
  for run in runs:
    train = [(r['step'], r['loss']) for r in run['rows'] if 'loss' in r]
    train = train[:: max(1, -(-len(train) // _POINTS))]
    line = None
    if train:
      (line,) = axes.plot(*zip(*train, strict=True), label=run['name'])
    held_out = [
      (r['step'], r['eval_loss']) for r in run['rows'] if 'eval_loss' in r
    ]
    if held_out:
      axes.plot(
        *zip(*held_out, strict=True),
        'o--',
        color=line.get_color() if line else None,
        label=f'{run["name"]}, validation',
      )
  axes.set(xlabel='updates', ylabel='loss (nats; fine-tuning: task + LM)')
  axes.grid(alpha=0.3)
  axes.legend()
  out = io.StringIO()
  drawing.savefig(out, format='svg')
  svg = out.getvalue()
  return svg[svg.index('<svg') :]  # without the XML prologue
