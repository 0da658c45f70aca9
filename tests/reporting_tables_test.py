"""Tests which cells of a report's tables, and which lines, runs fill."""

import json

import pytest

from gpt1_jax.reporting import cells, figures, paper, sections, tables
from gpt1_jax.tasks import table as tasks_table
from tests.support import run_folders
from tests.support.run_folders import ACCURACY, accuracy, found


def rows(table, *names):
  """Returns first cell -> cells by column, or the cells of some columns."""
  out = {}
  for row in (*table.rows, *table.folded):
    first = next(iter(row.values()))
    named = {name: row.get(name, '–') for name in names}
    out[first] = list(named.values()) if names else row
  return out


@pytest.fixture(scope='module')
def top(tmp_path_factory):
  """A folder with one run of each kind; no test changes it."""
  return run_folders.everything(tmp_path_factory.mktemp('reporting'))


def test_every_run_has_its_score_in_the_overview(top, tmp_path):
  table = tables.overview(found(top))
  measure = 'Matthews (%) on dev, 1,000 examples'
  assert rows(table)['all/cola'] == {
    'run': 'all/cola',
    'score': '20.0 [10.0, 40.0]',
    'measure': measure,
    'what it is': 'cola: from a & <b>$x',
    'state': 'finished',
  }
  assert list(rows(table)) == [
    *('a & <b>$x', 'lstm', 'all/cola', 'rte'),
    *(f'sweep/cola/layers-{i}' for i in range(3)),
    'sweep/cola/scratch',
  ]
  assert rows(table, 'score', 'measure', 'what it is')['lstm'] == [
    '12.34',
    'perplexity per token',
    'pretrained on <novels>',
  ]
  assert rows(table, 'score')['rte'] == ['–']
  run_folders.finetuning(tmp_path / 'r', 'rte', None)
  row = {'step': 9, 'eval_loss': 2.0, 'eval_accuracy': 0.25}
  (tmp_path / 'r/metrics.jsonl').write_text(json.dumps(row))
  assert rows(tables.overview(found(tmp_path)), 'score', 'measure')['r'] == [
    '25.0 so far',
    'accuracy (%) on dev',
  ]


def test_several_seeds_show_median_and_range(top):
  table = tables.scores('', paper.TABLE_4, found(top))
  assert rows(table)['CoLA'] == {
    'task': 'CoLA',
    'ours': '20.0 [10.0, 40.0]',
    'GPT-1 (test)': '45.4',
    'metric': 'Matthews',
    'best before (test)': '35.0, Single-task BiLSTM + ELMo + Attn',
    'split': 'dev, 1,000',
    'seeds': '3',
    'pretraining tokens': '98.8 M',
    'parameters': '2.3 M',
    'commit': 'abcdef01+',
    'run': 'all/cola',
  }
  folded = ['SST-2', 'MRPC', 'STS-B', 'QQP', 'GLUE']
  assert [row['task'] for row in table.folded] == folded
  assert {row['ours'] for row in table.folded} == {'not run'}
  assert table.folded[-1]['GPT-1 (test)'] == '72.8'
  assert cells.percent([0.3, 0.1]) == '20.0 [10.0, 30.0]'
  assert cells.percent([-0.012]) == '-1.2'


def test_tables_2_to_4_show_full_models_only(tmp_path):
  run_folders.finetuning(tmp_path / 'scratch', 'rte', ACCURACY)
  assert tables.scores('', paper.TABLE_2, found(tmp_path)).rows == []
  run_folders.finetuning(tmp_path / 'full', 'rte', None, start='x')
  table = tables.scores('', paper.TABLE_2, found(tmp_path))
  assert rows(table, 'ours', 'split', 'pretraining tokens')['RTE'] == [
    'not finished: update 1,499 of 1,500',
    '–',
    'unknown',
  ]


def test_most_seeds_win_then_the_last_run(tmp_path):
  def ours(*names):
    runs = found(*(tmp_path / name for name in names))
    return rows(tables.scores('', paper.TABLE_2, runs), 'ours')['RTE'][0]

  for name, value in (('a', 0.1), ('b', 0.2)):
    run_folders.finetuning(tmp_path / name, 'rte', accuracy(value), start='x')
  run_folders.finetuning(tmp_path / 'c', 'rte', None, start='x')
  three = [accuracy(value) for value in (0.3, 0.3, 0.4)]
  run_folders.seeds(tmp_path / 'd', 'rte', three, start='x')
  assert ours('a', 'b', 'c') == '20.0'
  assert ours('b', 'a') == '10.0'
  assert ours('c').startswith('not finished')
  assert ours('d', 'a', 'b') == '30.0 [30.0, 40.0]'


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
  half = found(tmp_path / 'race_high')
  for columns, given, wanted in (
    (paper.TABLE_2, runs, 'MNLI-m 81.0 dev'),
    (paper.TABLE_2, runs, 'MNLI-mm 80.0 dev_mismatched'),
    (paper.TABLE_2, runs, 'SNLI 52.0 test'),
    (paper.TABLE_3, runs, 'RACE 60.0 test'),
    (paper.TABLE_3, runs, 'RACE-m 70.0 test_middle'),
    (paper.TABLE_3, runs, 'RACE-h 10.0 dev_high'),
    # Half of RACE fills its column if RACE as a whole was not run.
    (paper.TABLE_3, half, 'RACE-h 90.0 dev'),
  ):
    name, score, split = wanted.split()
    table = rows(tables.scores('', columns, given), 'ours', 'split')
    assert table[name] == [score, f'{split}, 1,000']
  table = rows(tables.scores('', paper.TABLE_3, half), 'ours', 'split')
  assert table['RACE'] == ['not run', '–']
  task = {'name': 'mnli', 'kind': 'entailment'}
  run_folders.finetuning(tmp_path / 'own', task, accuracy(0.4), start='x')
  own = tables.scores('', paper.TABLE_2, found(tmp_path / 'own'))
  assert [row['task'] for row in own.rows] == ['MNLI-m, own files']
  assert 'MNLI-mm' in [row['task'] for row in own.folded]


def test_averages_need_all_eight_tasks(tmp_path):
  for number, task in enumerate(paper.TABLE_5_TASKS):
    metric = tasks_table.TASKS[task].metrics[0]
    each = [{'dev': {metric: x / 100}} for x in (number, number + 10, 90)]
    if task == 'mnli':
      for one in each:
        one['dev_mismatched'] = {metric: one['dev'][metric] + 0.02}
    run_folders.seeds(tmp_path / task, task, each, start='x')
  runs = found(tmp_path)
  shown = tables.ablations(runs)
  assert [(row['model'], row['of']) for row in shown.rows] == [
    (paper.FULL, 'ours'),
    (paper.FULL, 'paper'),
  ]
  ours = shown.rows[0]
  assert ours['SST-2'] == '11.0 [1.0, 90.0]'
  assert ours['MNLI'] == '16.0 [6.0, 91.0]'  # the mean of both, then medians
  assert ours['average'] == f'{(sum(range(10, 18)) + 1) / 8:.1f}' == '13.6'
  table = rows(tables.scores('', paper.TABLE_4, runs), 'ours')
  assert table['GLUE'] == ['13.6']
  assert [row['model'] for row in shown.folded[::2]] == list(paper.TABLE_5)[1:]
  assert set(list(shown.folded[0].values())[2:]) == {'not run'}
  for row, (average, scores) in zip(
    [shown.rows[1], *shown.folded[1::2]], paper.TABLE_5.values(), strict=True
  ):
    cells = list(row.values())
    assert cells[2:] == [f'{x:.1f}' for x in (average, *scores)]
  some = [run for run in runs if run.task != 'qqp']
  assert tables.ablations(some).rows[0]['average'] == 'not run'
  details = tables.ablation_runs(runs)
  tasks = [row['task'] for row in details.rows]
  assert tasks == list(paper.TABLE_5_COLUMNS)


def test_layers_transferred(tmp_path):
  top = run_folders.everything(tmp_path)
  table, (line,) = figures.layers(found(top))
  assert line.points == [(0, 0.0), (1, 5.0), (2, 10.0), (4, 20.0)]
  assert line.ends[-1] == (10.0, 40.0)
  assert line.label == 'cola, Matthews'
  assert [list(row.values())[:4] for row in table.rows] == [
    ['cola', '0.0', 'Matthews', '0 of 4'],
    ['cola', '5.0', 'Matthews', '1 of 4'],
    ['cola', '10.0', 'Matthews', '2 of 4'],
    ['cola', '20.0 [10.0, 40.0]', 'Matthews', '4 of 4'],
  ]
  # Another pretrained run has its own line, without the first full model.
  scores = {'dev': {'matthews': 0.3}}
  run_folders.finetuning(
    top / 'z', 'cola', scores, start=top / 'lstm', layers=1
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
  assert list(table.rows[0].values()) == [
    'sst2', '80.0', '50.0', '93.2, P Table 4', '0.690', 'accuracy', 'dev, 872',
    '1,499', '98.2 M', '1.2 M', 'fedcba98', 'a & <b>$x',
  ]  # fmt: skip
  unknown = [table.rows[3][name] for name in ('reference (1)', 'normalised')]
  assert [*unknown, table.rows[3]['tokens seen']] == ['–', '–', '–']
  assert len(table.rows) == 5


def test_pretraining_table(tmp_path):
  run_folders.pretraining(tmp_path / 'a')
  run_folders.pretraining(tmp_path / 'b', finished=False, commit=None)
  table = rows(tables.pretraining(found(tmp_path)))
  assert list(table) == ['a', 'b', 'GPT-1 (paper)']
  assert table['GPT-1 (paper)']['perplexity per token'] == '18.40'
  assert list(table['a'].values()) == [
    'a', '12.34', '23.46', '<novels>', '1,499', '98,765,432', '1,234,567',
    '01234567',
  ]  # fmt: skip
  assert table['b']['updates'] == 'not finished: update 1,499 of 1,500'
  assert table['b']['commit'] == 'unknown'
  assert tables.pretraining([]).rows == []


def test_bits_per_byte_are_shown_where_bytes_were_counted(tmp_path):
  run_folders.pretraining(tmp_path / 'before')
  path = run_folders.pretraining(tmp_path / 'now') / 'scores.json'
  scores = json.loads(path.read_text()) | {'eval_bits_per_byte': 1.9284}
  path.write_text(json.dumps(scores))
  table = rows(tables.pretraining(found(tmp_path)))
  assert table['now']['bits per byte'] == '1.928'
  assert 'bits per byte' not in table['before']


def test_finetuning_table_lists_all_runs(tmp_path):
  top = run_folders.everything(tmp_path)
  run_folders.finetuning(
    top / 'own', {'name': 'mine', 'kind': 'similarity'}, ACCURACY
  )
  table = tables.finetuning(found(top))
  some = rows(table, 'task', 'model', 'ours', 'state')
  assert some['rte'] == [
    *('rte', 'no pretraining', '–', 'not finished: 1 of 3 seeds')
  ]
  assert some['own'] == ['mine', 'no pretraining', '50.0', 'finished']
  assert len(some) == 7
  some = rows(table, 'from', 'settings')
  assert some['sweep/cola/layers-1'][0] == '1 of 4 layers of a & <b>$x'
  assert some['all/cola'] == [
    'a & <b>$x',
    'rate 6.25e-05, warm-up 0.002, batch 8, 20 updates, LM 0.5, paper, float32',
  ]
  splits = rows(table, 'split')
  assert (splits['own'], splits['all/cola']) == (
    ['own dev, 1,000'],
    ['dev, 1,000'],
  )


def test_the_best_simple_method_stands_beside_the_score(tmp_path):
  run_folders.finetuning(tmp_path / 'plain', 'rte', ACCURACY)
  folder = run_folders.finetuning(tmp_path / 'bars', 'sst2', ACCURACY)
  scores = json.loads((folder / 'scores.json').read_text())
  scores['baselines'] = {
    'constant': {'accuracy': 0.509},
    'bag_of_words': {'accuracy': 0.8188},
    'unheard_of': {'accuracy': 1.0},
  }
  (folder / 'scores.json').write_text(json.dumps(scores))
  runs = found(tmp_path)
  for table in (tables.finetuning(runs), tables.overview(runs)):
    assert [r.get('best simple method (dev)') for r in table.rows] == [
      '81.9, bag of words',
      None,
    ]
  explained = sections.build(runs).sections[0].explanations
  assert [text for text in explained if 'Small models learn' in text]
  (row,) = rows(tables.finetuning(found(tmp_path / 'plain'))).values()
  assert 'best simple method (dev)' not in row
