"""Tests which runs are found, and which cells of the tables they fill."""

import dataclasses

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.reporting import (
  cells,
  figures,
  paper,
  runs as runs_lib,
  sections,
  tables,
)
from gpt1_jax.tasks import table
from tests.support import run_folders


def found(*folders):
  return runs_lib.find([str(folder) for folder in folders])


def rows(table, *names):
  """Returns first cell -> cells by header, or the cells of some columns."""
  out = {}
  for row in table.rows:
    assert len(row) == len(table.header)
    named = dict(zip(table.header, row, strict=True))
    out[row[0]] = [named[name] for name in names] if names else named
  return out


def accuracy(value, **more):
  return {'dev': {'accuracy': value}, **more}


def test_find_walks_folders(tmp_path):
  top = run_folders.everything(tmp_path)
  runs = found(top)
  sweep = ('layers-0', 'layers-1', 'layers-2', 'scratch')
  assert [run.name for run in runs] == [
    *('a & <b>$x', 'all/cola', 'lstm', 'rte'),
    *(f'sweep/cola/{name}' for name in sweep),
  ]
  assert runs_lib.summarize(runs) == (
    '8 runs: 2 pretraining, 6 fine-tuning, 1 not finished, '
    '2 with zero-shot scores'
  )
  assert runs[1].describe() == 'cola, full, 3 seeds, finished'
  assert runs[3].describe() == (
    'rte, no pretraining, not finished: 1 of 3 seeds'
  )
  # A run that is given twice counts once, in its first place.
  again = found(top / 'rte', top / 'lstm', top)
  assert [run.path for run in again[:2]] == [top / 'rte', top / 'lstm']
  assert len(again) == len(runs)


def test_folders_are_sorted_by_number(tmp_path):
  for layer in (10, 9, 2):
    run_folders.finetuning(tmp_path / f'layers-{layer}', 'rte', accuracy(0.5))
  assert [run.name for run in found(tmp_path)] == [
    'layers-2',
    'layers-9',
    'layers-10',
  ]


def test_seeds_without_a_common_header_are_one_run(tmp_path):
  """A sweep writes no config.json above the seeds."""
  for seed, value in ((0, 0.5), (1, 0.9), (2, 0.6)):
    folder = tmp_path / 'rte' / 'full' / f'seed-{seed}'
    run_folders.finetuning(folder, 'rte', accuracy(value), seed=seed)
  (run,) = found(tmp_path)
  assert run.seeds == [0, 1, 2]
  assert run.values('dev', 'accuracy') == [0.5, 0.9, 0.6]
  (tmp_path / 'rte/full/seed-1/scores.json').unlink()
  (run,) = found(tmp_path)
  assert (run.scores, run.state) == (None, 'not finished: 2 of 3 seeds')


def test_find_rejects_folders_without_runs(tmp_path):
  with pytest.raises(UserError, match='no such folder'):
    found(tmp_path / 'absent')
  with pytest.raises(UserError, match='no run here or below'):
    found(tmp_path)
  run_folders.pretraining(tmp_path / 'run')
  (tmp_path / 'run' / 'scores.json').write_text('{')
  with pytest.raises(UserError, match=r'scores\.json: damaged'):
    found(tmp_path)


@pytest.mark.parametrize(
  ('options', 'variant', 'layers'),
  [
    ({'start': 'run'}, paper.FULL, 4),
    ({'start': 'run', 'layers': 4}, paper.FULL, 4),
    ({'start': 'run', 'layers': 0}, paper.LAYERS, 0),
    ({'start': 'none'}, paper.NO_PRETRAINING, None),
    ({'start': 'run', 'lm_coef': 0.0}, paper.NO_AUXILIARY, 4),
    ({'start': 'run', 'kind': 'lstm'}, paper.LSTM, 1),
    ({'start': 'none', 'lm_coef': 0.0}, paper.OTHER, None),
    ({'start': 'run', 'layers': 2, 'lm_coef': 0.0}, paper.OTHER, 2),
    ({'start': 'none', 'kind': 'lstm'}, paper.OTHER, None),
  ],
)
def test_configuration_decides_the_row(tmp_path, options, variant, layers):
  folder = tmp_path / 'no-aux-scratch-lstm'
  run_folders.finetuning(folder, 'rte', accuracy(0.5), **options)
  (run,) = found(folder)
  assert (run.variant, run.layers) == (variant, layers)


def test_several_seeds_show_median_and_range(tmp_path):
  top = run_folders.everything(tmp_path)
  runs = found(top)
  table = tables.scores('', paper.TABLE_4, runs)
  assert rows(table)['CoLA'] == {
    'task': 'CoLA',
    'metric': 'Matthews',
    'ours': '20.0 [10.0, 40.0]',
    'our split': 'dev, 1,000',
    'GPT-1 (test)': '45.4',
    'best before (test)': '35.0, Single-task BiLSTM + ELMo + Attn',
    'seeds': '3',
    'tokens seen': '98.8 M',
    'parameters': '2.3 M',
    'commit': 'abcdef01+',
    'run': 'all/cola',
  }
  for name in ('SST-2', 'MRPC', 'STS-B', 'QQP'):
    assert rows(table, 'ours', 'our split', 'commit')[name] == [
      'not run',
      '–',
      '–',
    ]
  assert rows(table, 'GPT-1 (test)', 'ours')['GLUE'] == ['72.8', 'not run']
  assert cells.percent([0.3, 0.1]) == '20.0 [10.0, 30.0]'
  assert cells.percent([-0.012]) == '-1.2'


def test_tables_2_to_4_show_full_models_only(tmp_path):
  run_folders.finetuning(tmp_path / 'scratch', 'rte', accuracy(0.9))
  runs = found(tmp_path)
  table = tables.scores('', paper.TABLE_2, runs)
  assert {row[2] for row in table.rows} == {'not run'}
  run_folders.finetuning(tmp_path / 'full', 'rte', None, start='x')
  runs = found(tmp_path)
  table = tables.scores('', paper.TABLE_2, runs)
  assert rows(table, 'ours', 'our split', 'tokens seen')['RTE'] == [
    'not finished',
    '–',
    'unknown',
  ]


def test_most_seeds_win_then_the_last_run(tmp_path):
  def ours(*names):
    runs = found(*(tmp_path / name for name in names))
    return rows(tables.scores('', paper.TABLE_2, runs), 'ours')['RTE']

  for name, value in (('a', 0.1), ('b', 0.2)):
    run_folders.finetuning(tmp_path / name, 'rte', accuracy(value), start='x')
  run_folders.finetuning(tmp_path / 'c', 'rte', None, start='x')
  three = [accuracy(value) for value in (0.3, 0.3, 0.4)]
  run_folders.seeds(tmp_path / 'd', 'rte', three, start='x')
  assert ours('a', 'b', 'c') == ['20.0']
  assert ours('b', 'a') == ['10.0']
  assert ours('c') == ['not finished']
  assert ours('d', 'a', 'b') == ['30.0 [30.0, 40.0]']


def test_labelled_test_splits_and_suffixed_splits(tmp_path):
  halves = {f'dev{p}': {'accuracy': 0.1} for p in ('_middle', '_high')}
  halves |= {'test_middle': {'accuracy': 0.7}, 'test': {'accuracy': 0.6}}
  for task, scores in {
    'mnli': accuracy(0.81, dev_mismatched={'accuracy': 0.8}),
    'snli': accuracy(0.5, test={'accuracy': 0.52}),
    'race': accuracy(0.2, **halves),
    'race_high': accuracy(0.9),
  }.items():
    run_folders.finetuning(tmp_path / task, task, scores, start='x')
  runs = found(tmp_path)
  table = rows(tables.scores('', paper.TABLE_2, runs), 'ours', 'our split')
  assert table['MNLI-m'] == ['81.0', 'dev, 1,000']
  assert table['MNLI-mm'] == ['80.0', 'dev_mismatched, 1,000']
  assert table['SNLI'] == ['52.0', 'test, 1,000']
  table = rows(tables.scores('', paper.TABLE_3, runs), 'ours', 'our split')
  assert table['RACE'] == ['60.0', 'test, 1,000']
  assert table['RACE-m'] == ['70.0', 'test_middle, 1,000']
  assert table['RACE-h'] == ['10.0', 'dev_high, 1,000']
  # A run on half of RACE fills its column if RACE as a whole was not run.
  runs = found(tmp_path / 'race_high')
  table = rows(tables.scores('', paper.TABLE_3, runs), 'ours', 'our split')
  assert table['RACE-h'] == ['90.0', 'dev, 1,000']
  assert table['RACE'] == ['not run', '–']


def test_averages_need_all_eight_tasks(tmp_path):
  for number, task in enumerate(paper.TABLE_5_TASKS):
    metric = table.TASKS[task].metrics[0]
    each = [{'dev': {metric: x / 100}} for x in (number, number + 10, 90)]
    if task == 'mnli':
      for one in each:
        one['dev_mismatched'] = {metric: one['dev'][metric] + 0.02}
    run_folders.seeds(tmp_path / task, task, each, start='x')
  runs = found(tmp_path)
  shown = tables.ablations(runs)
  assert [row[:2] for row in shown.rows] == [
    [model, of] for model in paper.TABLE_5 for of in ('paper', 'ours')
  ]
  ours = shown.rows[1]
  assert ours[3] == '10.0 [0.0, 90.0]'
  assert ours[8] == '16.0 [6.0, 91.0]'  # MNLI: the mean of both, then medians
  assert ours[2] == f'{(sum(range(10, 18)) + 1) / 8:.1f}' == '13.6'
  assert rows(tables.scores('', paper.TABLE_4, runs), 'ours')['GLUE'] == [
    '13.6'
  ]
  assert set(shown.rows[3][2:]) == {'not run'}
  for row, (average, scores) in zip(
    shown.rows[::2], paper.TABLE_5.values(), strict=True
  ):
    assert row[2:] == [f'{x:.1f}' for x in (average, *scores)]
  some = [run for run in runs if run.task != 'qqp']
  assert tables.ablations(some).rows[1][2] == 'not run'
  details = tables.ablation_runs(runs)
  assert [row[1] for row in details.rows] == list(paper.TABLE_5_COLUMNS)


def test_layers_transferred(tmp_path):
  top = run_folders.everything(tmp_path)
  runs = found(top)
  table, (line,) = figures.layers(runs)
  assert line.points == [(0, 0.0), (1, 5.0), (2, 10.0), (4, 20.0)]
  assert line.ends[-1] == (10.0, 40.0)
  assert line.label == 'cola, Matthews'
  assert [row[:4] for row in table.rows] == [
    ['cola', '0 of 4', 'Matthews', '0.0'],
    ['cola', '1 of 4', 'Matthews', '5.0'],
    ['cola', '2 of 4', 'Matthews', '10.0'],
    ['cola', '4 of 4', 'Matthews', '20.0 [10.0, 40.0]'],
  ]
  # Another pretrained run has its own line, without the first full model.
  run_folders.finetuning(
    top / 'z',
    'cola',
    {'dev': {'matthews': 0.3}},
    start=top / 'lstm',
    layers=1,
  )
  _, lines = figures.layers(found(top))
  assert [line.label for line in lines] == [
    'cola, Matthews, from a & <b>$x',
    'cola, Matthews, from lstm',
  ]
  assert lines[1].points == [(1, 30.0)]


def test_zero_shot(tmp_path):
  top = run_folders.everything(tmp_path)
  run = top / 'a & <b>$x'
  run_folders.zero_shot(run, 'race_middle', [(100, 0.3, 0.2)])
  run_folders.zero_shot(
    run, 'wsc273', [(0, 0.6, None)], reference=None, tokens_seen=None
  )
  assert 'wsc273' not in {x.label for x in figures.zero_shot(found(run))[1]}
  run_folders.zero_shot(run, 'sst2', [(1499, 0.8, 0.69)])  # replaces the row
  table, lines = figures.zero_shot(found(top))
  assert {line.label: (line.points, line.dashed) for line in lines} == {
    'sst2, a & <b>$x': ([(100, 0.12), (1499, 0.69)], False),
    'race, a & <b>$x': ([(100, 0.18), (1499, 0.11)], False),
    'sst2, lstm': ([(100, 0.05), (1499, 0.0)], True),
  }
  assert lines[0].color == lines[2].color != lines[1].color
  assert table.rows[0] == [
    'sst2',
    'accuracy',
    'dev, 872',
    '50.0',
    '93.2, P Table 4',
    '80.0',
    '0.690',
    '1,499',
    '98.2 M',
    '1.2 M',
    'fedcba98',
    'a & <b>$x',
  ]
  assert table.rows[3][4:9] == ['–', '60.0', '–', '0', '–']
  assert len(table.rows) == 5


def test_pretraining_table(tmp_path):
  run_folders.pretraining(tmp_path / 'a')
  run_folders.pretraining(tmp_path / 'b', finished=False, commit=None)
  table = rows(tables.pretraining(found(tmp_path)))
  assert table['GPT-1 (paper)']['perplexity per token'] == '18.40'
  assert list(table['a'].values()) == [
    'a',
    '<novels>',
    '1,234,567',
    '1,499',
    '98,765,432',
    '12.34',
    '23.46',
    '01234567',
  ]
  assert table['b']['updates'] == 'not finished'
  assert table['b']['commit'] == 'unknown'
  assert 'not run' in rows(tables.pretraining([]))


def test_finetuning_table_lists_all_runs(tmp_path):
  top = run_folders.everything(tmp_path)
  run_folders.finetuning(
    top / 'own', {'name': 'mine', 'kind': 'similarity'}, accuracy(0.5)
  )
  runs = found(top)
  table = rows(tables.finetuning(runs), 'task', 'model', 'ours')
  assert table['rte'] == ['rte', 'no pretraining', 'not finished: 1 of 3 seeds']
  assert table['own'] == ['mine', 'no pretraining', '50.0']
  assert len(table) == 7
  table = rows(tables.finetuning(runs), 'from', 'settings')
  assert table['sweep/cola/layers-1'][0] == '1 of 4 layers of a & <b>$x'
  assert table['all/cola'] == [
    'a & <b>$x',
    'rate 6.25e-05, batch 8, 20 updates, LM 0.5, paper, float32',
  ]


def test_pretrained_run_is_given_or_on_disk_or_missing(tmp_path):
  run_folders.pretraining(tmp_path / 'p')
  run_folders.finetuning(
    tmp_path / 'f', 'rte', accuracy(0.5), start=tmp_path / 'p'
  )
  run_folders.finetuning(tmp_path / 'n', 'rte', accuracy(0.5))
  run_folders.finetuning(tmp_path / 'g', 'rte', accuracy(0.5), start='gone')
  f, g, n, p = found(tmp_path)
  assert cells.tokens_seen(f, [p]) == '98.8 M'
  assert cells.tokens_seen(f, []) == '98.8 M'
  assert cells.tokens_seen(g, []) == 'unknown'
  assert cells.tokens_seen(n, []) == 'none'
  converted = dataclasses.replace(
    p, header=p.header | {'command': 'convert'}, pretraining=None
  )
  assert cells.tokens_seen(f, [converted]) == 'trained elsewhere'


def test_facts_name_runs_and_commits(tmp_path):
  top = run_folders.everything(tmp_path)
  facts = sections.build(found(top)).facts
  assert (
    'Pretrained: a & <b>$x, 1.2 M parameters, 98.8 M tokens seen, commit '
    '01234567.'
  ) in facts
  assert (
    'Fine-tuned: 6 runs of 2 tasks, 1 not finished; commits abcdef01+.' in facts
  )
