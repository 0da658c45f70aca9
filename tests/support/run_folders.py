"""Writes run folders as pretrain and finetune do, without training.

Configurations come from configs/, scores from the test.
"""

import json

from configs import finetune as finetune_config, pretrain as pretrain_config
from gpt1_jax.reporting import runs as runs_lib
from gpt1_jax.tasks import summary

ACCURACY = {'dev': {'accuracy': 0.5}}
MODEL = {'n_layer': 4, 'n_embd': 8, 'dtype': 'float32'}


def found(*folders):
  """Returns the runs that a report of these folders finds."""
  return runs_lib.find([str(folder) for folder in folders])


def accuracy(value, **more):
  """Returns the scores of a run: an accuracy on dev, and other splits."""
  return {'dev': {'accuracy': value}, **more}


def pretraining(folder, *, finished=True, commit='0123456789ab', **model):
  """Writes a pretraining run; `model` changes its model's configuration."""
  config = pretrain_config.get_config('tiny').to_dict()
  config['data']['path'] = '/data/<novels>'
  facts = {
    'command': 'pretrain',
    'config': config,
    'commit': commit,
    'model': MODEL | model,
    'parameters': 1_234_567,
    'num_steps': 1500,
  }
  _write(folder, 'config.json', facts)
  scores = {
    'step': 1499,
    'tokens': 12_345,
    'tokens_seen': 98_765_432,
    'eval_perplexity': 12.344,
    'eval_word_perplexity': 23.456,
  }
  if finished:
    _write(folder, 'scores.json', scores)
  _curve(folder)
  return folder


def finetuning(
  folder,
  task,
  scores,
  *,
  start='none',
  seed=0,
  seeds=1,
  layers=-1,
  lm_coef=0.5,
  kind='gpt',
):
  """Writes a fine-tuning run of one seed.

  Args:
    folder: folder to create.
    task: name of a task, or the fields of an `OwnTask`.
    scores: split -> metric -> score; None for an unfinished run.
    start: config.init_from.
    seed, seeds: fields of config.train.
    layers: config.transfer.layers.
    lm_coef: config.head.lm_coef.
    kind: 'gpt' or 'lstm'.
  """
  name = task if isinstance(task, str) else ''
  config = finetune_config.get_config(f'{name},tiny' if name else 'tiny')
  config = config.to_dict() | {'task': task, 'init_from': str(start)}
  config['head']['lm_coef'] = lm_coef
  config['train'] |= {'seed': seed, 'seeds': seeds}
  config['transfer'] = {'layers': layers}
  model = dict(MODEL)
  if kind == 'lstm':
    model = {'kind': 'lstm', 'units': 9, 'dtype': 'float32'}
  facts = {
    'command': 'finetune',
    'config': config,
    'commit': 'abcdef012345+',
    'model': model,
    'parameters': 2_345_678,
    'num_steps': 1500,
  }
  _write(folder, 'config.json', facts)
  _curve(folder)
  if scores:
    found = result(name or task['name'], seed, scores)
    _write(folder, 'scores.json', found)
  return folder


def result(task, seed, scores):
  """Returns scores.json of one seed."""
  metric = next(iter(scores['dev']))
  return {
    'task': task,
    'split': 'dev',
    'examples': 1000,
    'metric': metric,
    'score': scores['dev'][metric],
    'metrics': scores['dev'],
    'splits': scores,
    'counts': {split: {'examples': 1000, 'cut': 0} for split in scores},
    'step': None,
    'seed': seed,
  }


def seeds(folder, task, each, *, wanted=None, **options):
  """Writes the runs of several seeds, and their summary if all finished."""
  wanted = wanted or len(each)
  finetuning(folder, task, None, seeds=wanted, **options)
  (folder / 'metrics.jsonl').unlink()
  results = []
  for seed, scores in enumerate(each):
    finetuning(folder / f'seed-{seed}', task, scores, seed=seed, **options)
    results.append(result(task, seed, scores) if scores else None)
  if len(results) == wanted and all(results):
    _write(folder, 'scores.json', summary.over_seeds(results))
  return folder


def zero_shot(folder, task, series, **more):
  """Appends rows (step, score, normalised) to zero_shot.jsonl."""
  with (folder / 'zero_shot.jsonl').open('a') as file:
    for step, score, normalised in series:
      row = {
        'step': step,
        'tokens_seen': 65_536 * step,
        'task': task,
        'metric': 'accuracy',
        'score': score,
        'examples': 872,
        'split': 'dev',
        'chance': 0.5,
        'reference': 0.932,
        'reference_source': 'P Table 4',
        'normalised': normalised,
        'commit': 'fedcba987654',
      }
      file.write(json.dumps(row | more) + '\n')


def everything(top):
  """Writes one run of each kind, with hostile names; returns the folder."""
  runs = top / 'runs'
  pretrained = pretraining(runs / 'a & <b>$x')
  (pretrained / 'samples.txt').write_text('<script>alert(1)</script>')
  zero_shot(pretrained, 'sst2', [(100, 0.55, 0.12), (1499, 0.7, 0.46)])
  zero_shot(pretrained, 'race', [(100, 0.3, 0.18), (1499, 0.28, 0.11)])
  lstm = pretraining(runs / 'lstm', kind='lstm')
  zero_shot(lstm, 'sst2', [(100, 0.52, 0.05), (1499, 0.5, 0.0)])
  scores = [{'dev': {'matthews': x, 'accuracy': 0.5}} for x in (0.2, 0.1, 0.4)]
  seeds(runs / 'all' / 'cola', 'cola', scores, start=pretrained)
  for layer in range(3):
    finetuning(
      runs / 'sweep' / 'cola' / f'layers-{layer}',
      'cola',
      {'dev': {'matthews': 0.05 * layer, 'accuracy': 0.5}},
      start=pretrained,
      layers=layer,
    )
  finetuning(
    runs / 'sweep' / 'cola' / 'scratch',
    'cola',
    {'dev': {'matthews': -0.01, 'accuracy': 0.5}},
  )
  seeds(runs / 'rte', 'rte', [{'dev': {'accuracy': 0.6}}, None], wanted=3)
  return runs


def _write(folder, name, value):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_text(json.dumps(value))


def _curve(folder):
  rows = [{'step': i, 'loss': 9.0 - i / 900} for i in range(1, 1500)]
  rows.append({'step': 1499, 'eval_loss': 7.5})
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'metrics.jsonl').write_text(lines + '{"torn')
