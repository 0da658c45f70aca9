"""What stands on the report, in order, and the words around it."""

from collections.abc import Sequence

from gpt1_jax import __version__
from gpt1_jax.reporting import (
  cells,
  figures,
  page,
  paper,
  plots,
  runs as runs_lib,
  tables,
)
from gpt1_jax.train import run as run_lib

_TEST = (
  'GPT-1’s scores are test scores, of GLUE’s tasks on hidden test sets. Ours '
  'are of the split that the row names: a dev score is not a test score, and '
  'the checkpoint was chosen on dev.'
)
_HOW = (
  'Scores are in percent; several seeds as median [least, most]. A run belongs '
  'to a row by its configuration; of several, the one with the most seeds '
  'counts, of equals the last given. All runs are listed below.'
)
NOTES = (_TEST, _HOW)  # how to read the page
_PAPER = (
  f'GPT-1: 12 layers, {paper.PARAMETERS:,} parameters, 100 epochs of '
  'BooksCorpus (Radford, Narasimhan, Salimans, Sutskever 2018).'
)
_PRETRAINING = (
  f'GPT-1 reports {paper.PERPLEXITY} a token on BooksCorpus, with a vocabulary '
  'of its own; a perplexity on another corpus or another vocabulary does not '
  'compare with it. That of a word divides by the words instead.'
)
_LOSS = 'loss (nats)'


def facts(runs: Sequence[runs_lib.Run]) -> list[str]:
  """What was run on what, for the header."""
  origins = {run.path: run for run in runs}
  out = []
  for run in runs:
    if run.command != 'finetune':
      seen = cells.tokens_seen(run, origins)
      tokens = f'{seen} tokens seen' if run.scores else seen
      size = cells.short(run.facts['parameters'])
      out.append(
        f'Pretrained: {run.name}, {size} parameters, {tokens}, commit '
        f'{run.commit}.'
      )
  tuned = [run for run in runs if run.command == 'finetune']
  if tuned:
    commits = ', '.join(dict.fromkeys(run.commit for run in tuned))
    tasks = len({run.task for run in tuned})
    unfinished = sum(not run.scores for run in tuned)
    out.append(
      f'Fine-tuned: {len(tuned)} runs of {tasks} tasks, {unfinished} not '
      f'finished; commits {commits}.'
    )
  commit = runs_lib.short_commit(run_lib.commit())
  return [_PAPER, *out, f'Page: gpt1_jax {__version__}, commit {commit}.']


def sections(runs: Sequence[runs_lib.Run]) -> list[page.Section]:
  """All parts of the report, whether anything was run for them or not."""
  origins = {run.path: run for run in runs}
  return [
    *_scores(runs, origins),
    *_figure_2(runs, origins),
    *_training(runs, origins),
    *_samples(runs),
  ]


def _scores(
  runs: Sequence[runs_lib.Run], origins: cells.Origins
) -> list[page.Section]:
  out = []
  for number, title, columns in (
    (2, 'language inference', paper.TABLE_2),
    (3, 'questions and stories', paper.TABLE_3),
    (4, 'classification and similarity', paper.TABLE_4),
  ):
    table = tables.scores(
      f'Table {number}. GPT-1: test sets. Ours: the split in the row',
      columns,
      runs,
      origins,
    )
    note = 'Paper §4.2. Full models: pretrained, with the auxiliary LM.'
    if columns is paper.TABLE_4:
      note += (
        ' GLUE: ours is the plain mean of the eight of Table 5, only if all '
        'were run; the benchmark’s own formula is another.'
      )
    out.append(
      page.Section(f'table-{number}', f'Table {number}: {title}', note, [table])
    )
  note = (
    'Paper §5. Full: the Transformer, pretrained, with the auxiliary LM; the '
    'other rows are without one of the three. The average is that of the eight '
    'columns, only if all were run; MNLI is the mean of matched and mismatched.'
  )
  both = [tables.ablations(runs), tables.ablation_runs(runs, origins)]
  out.append(page.Section('table-5', 'Table 5: ablations', note, both))
  return out


def _figure_2(
  runs: Sequence[runs_lib.Run], origins: cells.Origins
) -> list[page.Section]:
  table, lines = figures.layers(runs, origins)
  drawn = []
  if lines:
    svg = plots.draw(
      'layers',
      lines,
      x='layers transferred',
      y='dev score (%)',
      whole=True,
    )
    drawn.append(page.Plot('Dev score over layers transferred', svg, lines))
  note = (
    'Paper §5. The embeddings are always transferred, and so many blocks from '
    'below. In the paper each layer adds to the dev accuracy of MultiNLI and '
    'RACE, up to 9 points on MultiNLI; it gives no figures beside the plot. '
    'Bars reach from the least to the most over seeds.'
  )
  out = [
    page.Section(
      'figure-2-left', 'Figure 2, left: layers', note, [table], drawn
    )
  ]
  table, lines = figures.zero_shot(runs)
  drawn = []
  if lines:
    svg = figures.draw_zero_shot(lines)
    drawn.append(page.Plot('Zero-shot over pretraining', svg, lines))
  note = (
    'Paper §5. Without fine-tuning; 0 is random guessing and 1 the best '
    'earlier score, as the row names it (the paper: of a single model). The '
    'paper gives the plot, and no figures. LSTMs are dashed.'
  )
  out.append(
    page.Section(
      'figure-2-right', 'Figure 2, right: zero-shot', note, [table], drawn
    )
  )
  return out


def _training(
  runs: Sequence[runs_lib.Run], origins: cells.Origins
) -> list[page.Section]:
  pretrained = [run for run in runs if run.command == 'pretrain' and run.rows]
  drawn = []
  if lines := figures.losses(pretrained):
    svg = plots.draw('pretraining', lines, x='updates', y=_LOSS)
    drawn.append(page.Plot('Pretraining: loss', svg, lines))
  out = [
    page.Section(
      'pretraining',
      'Pretraining',
      _PRETRAINING,
      [tables.pretraining(runs)],
      drawn,
    )
  ]
  tuned = [run for run in runs if run.command == 'finetune']
  drawn = []
  for number, task in enumerate(dict.fromkeys(run.task for run in tuned)):
    lines = figures.losses([run for run in tuned if run.task == task])
    if lines:
      svg = plots.draw(f'loss-{number}', lines, x='updates', y=_LOSS)
      drawn.append(page.Plot(f'{task}: loss of task and LM', svg, lines))
  note = 'Every run that was found. Curves are of the first seed.'
  out.append(
    page.Section(
      'fine-tuning',
      'Fine-tuning',
      note,
      [tables.finetuning(runs, origins)],
      drawn,
    )
  )
  return out


def _samples(runs: Sequence[runs_lib.Run]) -> list[page.Section]:
  return [
    page.Section(
      f'samples-{number}', f'Samples of {run.name}', text=run.samples
    )
    for number, run in enumerate(run for run in runs if run.samples)
  ]
