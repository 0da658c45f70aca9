"""Composes the report: its sections in order, and the notes on them."""

from collections.abc import Sequence

from gpt1_jax import __version__
from gpt1_jax.reporting import cells, figures, paper, plots, tables
from gpt1_jax.reporting.page import Report, Section
from gpt1_jax.reporting.runs import RunRecord, short_commit
from gpt1_jax.train import run as run_lib

_NOTES = (
  'GPT-1’s scores are test scores; those of GLUE’s tasks are on hidden test '
  'sets. Ours are on the split that the row names. A dev score is not a test '
  'score, and dev also selected the checkpoint.',
  'Scores are in percent; several seeds show as median [minimum, maximum]. A '
  'run’s configuration decides its row. If several runs fit a cell, the run '
  'with the most seeds is shown; among equals, the last given. All runs are '
  'listed below.',
)
_PAPER = (
  f'GPT-1: 12 layers, {paper.PARAMETERS:,} parameters, 100 epochs of '
  'BooksCorpus (Radford, Narasimhan, Salimans, Sutskever 2018).'
)
_FULL = 'Paper §4.2. Full models: pretrained, with the auxiliary LM.'
_GLUE = (
  'GLUE: ours is the plain mean of the eight tasks of Table 5, shown only if '
  'all of them were run; the benchmark’s own formula differs.'
)
_SCORES = (
  (2, 'language inference', paper.TABLE_2, _FULL),
  (3, 'questions and stories', paper.TABLE_3, _FULL),
  (4, 'classification and similarity', paper.TABLE_4, f'{_FULL} {_GLUE}'),
)
_ABLATIONS = (
  'Paper §5. Full: the Transformer, pretrained, with the auxiliary LM; each '
  'other row lacks one of the three. The average is over the eight columns, '
  'shown only if all of them were run; MNLI is the mean of matched and '
  'mismatched.'
)
_LAYERS = (
  'Paper §5. The embeddings and the lowest N blocks are transferred. In the '
  'paper each layer adds to the dev accuracy of MultiNLI and RACE, up to 9 '
  'points on MultiNLI; it plots the scores without listing them. Bars span the '
  'minimum and maximum over seeds.'
)
_ZERO_SHOT = (
  'Paper §5. Without fine-tuning. 0 is random guessing, 1 the best earlier '
  'score, named in the row (in the paper: of a single model). The paper plots '
  'the scores without listing them. LSTMs are dashed.'
)
_PRETRAINING = (
  f'GPT-1 reports a perplexity of {paper.PERPLEXITY} per token on BooksCorpus, '
  'with its own vocabulary. Perplexities per token on another corpus or with '
  'another vocabulary do not compare. Perplexity per word divides by the '
  'number of words, which makes vocabularies comparable.'
)
_LOSS = plots.Scales('updates', 'loss (nats)')


def build(runs: Sequence[RunRecord]) -> Report:
  """Builds the report; sections without runs say so."""
  return Report(
    facts=_facts(runs),
    notes=_NOTES,
    sections=[
      *_scores(runs),
      *_figure_2(runs),
      _pretraining(runs),
      _finetuning(runs),
      *_samples(runs),
    ],
  )


def _facts(runs: Sequence[RunRecord]) -> list[str]:
  """Returns lines that name the runs, their sizes and commits."""
  facts = [_PAPER]
  for run in runs:
    if run.command == 'finetune':
      continue
    tokens = cells.tokens_seen(run, runs) + ' tokens seen' * run.finished
    size = cells.short(run.header['parameters'])
    facts.append(
      f'Pretrained: {run.name}, {size} parameters, {tokens}, commit '
      f'{run.commit}.'
    )
  if tuned := [run for run in runs if run.command == 'finetune']:
    commits = ', '.join(dict.fromkeys(run.commit for run in tuned))
    tasks = len({run.task for run in tuned})
    unfinished = sum(not run.finished for run in tuned)
    facts.append(
      f'Fine-tuned: {len(tuned)} runs of {tasks} tasks, {unfinished} not '
      f'finished; commits {commits}.'
    )
  commit = short_commit(run_lib.commit())
  return [*facts, f'Page: gpt1_jax {__version__}, commit {commit}.']


def _scores(runs: Sequence[RunRecord]) -> list[Section]:
  """Returns the sections of Tables 2 to 5."""
  out = []
  for number, title, columns, note in _SCORES:
    caption = f'Table {number}. GPT-1: test sets. Ours: the split in the row'
    table = tables.scores(caption, columns, runs)
    title = f'Table {number}: {title}'
    out.append(Section(f'table-{number}', title, note, [table]))
  both = [tables.ablations(runs), tables.ablation_runs(runs)]
  return [*out, Section('table-5', 'Table 5: ablations', _ABLATIONS, both)]


def _figure_2(runs: Sequence[RunRecord]) -> list[Section]:
  left, lines = figures.layers(runs)
  scales = plots.Scales('layers transferred', 'dev score (%)', integer=True)
  title = 'Dev score over layers transferred'
  left_plots = _plots(title, 'layers', lines, scales)
  right, lines = figures.zero_shot(runs)
  right_plots = []
  if lines:
    svg = figures.draw_zero_shot(lines)
    right_plots.append(plots.Plot('Zero-shot over pretraining', svg, lines))
  return [
    Section(
      'figure-2-left', 'Figure 2, left: layers', _LAYERS, [left], left_plots
    ),
    Section(
      'figure-2-right',
      'Figure 2, right: zero-shot',
      _ZERO_SHOT,
      [right],
      right_plots,
    ),
  ]


def _pretraining(runs: Sequence[RunRecord]) -> Section:
  lines = figures.losses([run for run in runs if run.command == 'pretrain'])
  drawn = _plots('Pretraining: loss', 'pretraining', lines, _LOSS)
  table = tables.pretraining(runs)
  return Section('pretraining', 'Pretraining', _PRETRAINING, [table], drawn)


def _finetuning(runs: Sequence[RunRecord]) -> Section:
  tuned = [run for run in runs if run.command == 'finetune']
  drawn = []
  for number, task in enumerate(dict.fromkeys(run.task for run in tuned)):
    lines = figures.losses([run for run in tuned if run.task == task])
    title = f'{task}: loss of task and LM'
    drawn += _plots(title, f'loss-{number}', lines, _LOSS)
  note = 'Every run that was found. Curves are of the first seed.'
  table = tables.finetuning(runs)
  return Section('fine-tuning', 'Fine-tuning', note, [table], drawn)


def _samples(runs: Sequence[RunRecord]) -> list[Section]:
  return [
    Section(f'samples-{number}', f'Samples of {run.name}', text=run.samples)
    for number, run in enumerate(run for run in runs if run.samples)
  ]


def _plots(
  title: str, name: str, lines: Sequence[plots.Line], scales: plots.Scales
) -> list[plots.Plot]:
  """Draws the lines; returns no plot if there are none."""
  if not lines:
    return []
  return [plots.Plot(title, plots.draw(name, lines, scales), lines)]
