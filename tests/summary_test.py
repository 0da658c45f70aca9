"""Medians over seeds, and the table over tasks."""

from gpt1_jax.tasks import summary


def result(seed, dev, test):
  return {
    'task': 'mrpc',
    'metric': 'f1',
    'score': dev[0],
    'metrics': dict(zip(('f1', 'accuracy'), dev, strict=True)),
    'splits': {
      'dev': dict(zip(('f1', 'accuracy'), dev, strict=True)),
      'test': {'f1': test},
    },
    'counts': {'dev': {'examples': 4080, 'cut': 0}, 'test': {'examples': 9}},
    'remarks': [f'dev: {seed % 2} odd'],
    'seed': seed,
    'step': 30,
  }


SEEDS = [
  result(3, (0.8, 0.5), 0.1),
  result(4, (0.9, 0.4), 0.3),
  result(5, (0.7, 0.6), 0.2),
  result(6, (0.6, 0.7), 0.4),
]


def test_over_seeds():
  found = summary.over_seeds(SEEDS)
  assert found['score'] == found['metrics']['f1'] == 0.75
  assert found['splits'] == {
    'dev': {'f1': 0.75, 'accuracy': 0.55},
    'test': {'f1': 0.25},
  }
  assert found['spread']['dev']['f1'] == {
    'values': [0.8, 0.9, 0.7, 0.6],
    'median': 0.75,
    'minimum': 0.6,
    'maximum': 0.9,
  }
  assert (found['seeds'], found['best_seed']) == ([3, 4, 5, 6], 4)
  assert found['task'] == 'mrpc'
  assert found['remarks'] == ['dev: 0 odd', 'dev: 1 odd']


def test_table_over_tasks():
  results = {
    'mrpc': summary.over_seeds(SEEDS),
    'rte': SEEDS[0],
    'race': {'error': 'no train file'},
  }
  assert summary.rows(results) == [
    list(summary.HEADER),
    ['mrpc', 'dev', 'f1', '75.0', '60.0', '90.0', '4', '4,080'],
    ['mrpc', 'dev', 'accuracy', '55.0', '40.0', '70.0', '4', '4,080'],
    ['mrpc', 'test', 'f1', '25.0', '10.0', '40.0', '4', '9'],
    ['rte', 'dev', 'f1', '80.0', '80.0', '80.0', '1', '4,080'],
    ['rte', 'dev', 'accuracy', '50.0', '50.0', '50.0', '1', '4,080'],
    ['rte', 'test', 'f1', '10.0', '10.0', '10.0', '1', '9'],
    ['race', 'no score', '', '', '', '', '', ''],
  ]
  lines = summary.markdown(results).splitlines()
  assert len({len(line) for line in lines[:9]}) == 1
  assert all(line.count('|') == 9 for line in lines[:9])
  assert lines[9:] == [
    '',
    '- mrpc: dev: 0 odd',
    '- mrpc: dev: 1 odd',
    '- rte: dev: 1 odd',
    '- race: no train file',
  ]
  plain = {'rte': {**SEEDS[0], 'remarks': []}}
  assert len(summary.markdown(plain).splitlines()) == 5
