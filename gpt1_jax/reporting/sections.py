"""Composes the report: our runs, then our scores beside the paper's."""

from collections.abc import Sequence

from gpt1_jax import __version__
from gpt1_jax.reporting import (
  cells,
  figures,
  law,
  paper,
  plots,
  runs as runs_lib,
  tables,
)
from gpt1_jax.reporting.page import Report, Section
from gpt1_jax.reporting.records import RunRecord, short_commit
from gpt1_jax.tasks import baselines
from gpt1_jax.train import run as run_lib

_PRETRAINED = (
  'Pretraining: a network reads text and learns to predict each next token (a '
  'word or a piece of one). Its perplexity is the number of equally likely '
  'tokens that it hesitates between, on text that it did not learn from; bits '
  'per byte are the same in bits for each byte of that text, whatever the '
  'tokens are. Lower is better.'
)
_TUNED = (
  'Fine-tuning: a network learns a task from labelled examples. Its score, in '
  'percent, is measured on examples that it did not learn from. Higher is '
  'better.'
)
_SCRATCH = (
  'From scratch means from random weights: the gap to the same task from a '
  'pretrained run shows what pretraining adds.'
)
_SIMPLE = (
  'Simple methods see only words: the commonest class, word counts and word '
  f'n-grams with logistic regression, the cosine of TF-IDF. {baselines.CAVEAT}'
)
_GAINS = (
  'GPT-1’s scores are those of the paper, on test sets and at full size. Lines '
  'span the minimum and maximum over seeds.'
)
_SEEDS = 'Several seeds show as median [minimum, maximum].'
_PAPER = (
  'GPT-1 (Radford, Narasimhan, Salimans, Sutskever 2018) has 12 layers and '
  f'{paper.PARAMETERS:,} parameters, and read BooksCorpus 100 times. Its '
  'scores are test scores; those of GLUE’s tasks are on hidden test sets. Ours '
  'are on the split that the row names; “own” is the split of a user’s own '
  'files under the name of the task. A dev score is not a test score, and dev '
  'also selected the checkpoint.'
)
_CHOICE = (
  'A run’s configuration decides its row. If several runs fit a cell, the run '
  'with the most seeds is shown; ties go to the last given.'
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
_LAW = (
  'Fitted to runs of one recipe on one corpus, each text read once, and '
  'extrapolated to GPT-1. Its range is over fits that leave out one run; the '
  'form of the law itself is the larger uncertainty. Repeated epochs count for '
  'less with each (Muennighoff et al. 2023). Perplexities are per token of the '
  f'runs’ vocabulary, so they do not compare with the paper’s '
  f'{paper.PERPLEXITY}.'
)
_TOKENS = plots.Scales('tokens', 'validation loss (nats)', log=True)


def build(runs: Sequence[RunRecord]) -> Report:
  """Builds the report; omits sections with neither runs nor paper scores."""
  beside = [*_scores(runs), *_figure_2(runs)]
  shown = [s for s in beside if any(table.rows for table in s.tables)]
  rest = [table for s in beside if s not in shown for table in s.tables]
  samples = [(run.name, run.samples) for run in runs if run.samples]
  sections = [
    _overview(runs),
    _gains(runs),
    _pretraining(runs),
    *_law(runs),
    _finetuning(runs),
    Section('samples', 'Samples', samples=samples),
    *shown,
    Section('not-run', 'The paper’s other scores', tables=rest),
  ]
  footer = (
    f'{runs_lib.summarize(runs)}. Page: gpt1_jax {__version__}, commit '
    f'{short_commit(run_lib.commit())}.'
  )
  return Report([s for s in sections if s.filled], footer)


def _overview(runs: Sequence[RunRecord]) -> Section:
  """Returns the first section: all runs, and what their scores mean."""
  tuned = [run for run in runs if run.command == 'finetune']
  explanations = {
    _PRETRAINED: len(tuned) < len(runs),
    _TUNED: bool(tuned),
    _SCRATCH: any(run.layers is None for run in tuned),
    _SIMPLE: any(cells.simple_method(run) for run in tuned),
    _SEEDS: any(len(run.seeds) > 1 for run in tuned),
  }
  return Section(
    'runs',
    'What was run',
    tables=[tables.overview(runs)],
    explanations=[text for text, holds in explanations.items() if holds],
  )


def _gains(runs: Sequence[RunRecord]) -> Section:
  lines, scales = figures.gains(runs)
  title = 'With and without pretraining'
  drawn = _plots('Main score of each task', 'gains', lines, scales)
  return Section('gains', title, _GAINS, plots=drawn)


def _scores(runs: Sequence[RunRecord]) -> list[Section]:
  """Returns the sections of Tables 2 to 5."""
  out = []
  for number, title, columns, note in _SCORES:
    caption = (
      f'Table {number}, {title}. GPT-1: test sets. Ours: as each row says'
    )
    table = tables.scores(caption, columns, runs)
    title = f'Table {number}: {title}'
    note = f'{note} {_PAPER} {_CHOICE}'
    out.append(Section(f'table-{number}', title, note, [table]))
  both = [tables.ablations(runs), tables.ablation_runs(runs)]
  return [*out, Section('table-5', 'Table 5: ablations', _ABLATIONS, both)]


def _figure_2(runs: Sequence[RunRecord]) -> list[Section]:
  left, lines = figures.layers(runs)
  scales = plots.Scales('layers transferred', 'dev score (%)', integer=True)
  title = 'Dev score over layers transferred'
  drawn = _plots(title, 'layers', lines, scales)
  title = 'Figure 2, left: layers'
  out = [Section('figure-2-left', title, _LAYERS, [left], drawn)]
  right, lines = figures.zero_shot(runs)
  drawn = []
  if lines:
    svg = figures.draw_zero_shot(lines)
    drawn.append(plots.Plot('Zero-shot over pretraining', svg, lines))
  title = 'Figure 2, right: zero-shot'
  return [*out, Section('figure-2-right', title, _ZERO_SHOT, [right], drawn)]


def _pretraining(runs: Sequence[RunRecord]) -> Section:
  lines = figures.losses([run for run in runs if run.command == 'pretrain'])
  drawn = _plots('Pretraining: loss', 'pretraining', lines, figures.LOSS)
  table = tables.pretraining(runs)
  return Section('pretraining', 'Pretraining', _PRETRAINING, [table], drawn)


def _law(runs: Sequence[RunRecord]) -> list[Section]:
  study = law.study(runs)
  if not study:
    return []
  drawn = _plots('Loss over tokens', 'law', law.lines(study), _TOKENS)
  note = f'{law.formula(study.law)}. {_LAW}'
  title = 'A small scaling law'
  return [Section('law', title, note, [law.table(study)], drawn)]


def law_picture(report: Report) -> str | None:
  """Draws the scaling law of a report for a file; None if it has none."""
  for section in report.sections:
    if section.name == 'law':
      return plots.draw('law', section.plots[0].lines, _TOKENS, file=True)
  return None


def _finetuning(runs: Sequence[RunRecord]) -> Section:
  tuned = [run for run in runs if run.command == 'finetune']
  drawn = []
  for number, task in enumerate(dict.fromkeys(run.task for run in tuned)):
    lines = figures.losses([run for run in tuned if run.task == task])
    title = f'{task}: loss of task and LM'
    drawn += _plots(title, f'loss-{number}', lines, figures.LOSS)
  note = 'Every run that was found. Curves are of the first seed.'
  table = tables.finetuning(runs)
  return Section('fine-tuning', 'Fine-tuning', note, [table], drawn)


def _plots(
  title: str, name: str, lines: Sequence[plots.Line], scales: plots.Scales
) -> list[plots.Plot]:
  """Draws the lines; returns no plot if there are none."""
  if not lines:
    return []
  return [plots.Plot(title, plots.draw(name, lines, scales), lines)]
