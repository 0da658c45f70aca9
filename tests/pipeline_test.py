"""Runs the commands as a user does: real files, and a real kill."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from gpt1_jax.train import checkpoint
from tests.support import commands, small_runs

TINY = (
  '--config=configs/pretrain.py:tiny',
  '--config.train.num_steps=12',
  '--config.train.eval_every=6',
  '--config.train.checkpoint_every=3',
  '--config.train.log_every=1',
  '--config.data.batch_size=8',
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return commands.prepare_reference(
    tmp_path_factory.mktemp('data') / 'reference',
    '--merges=500',
    '--validation_fraction=0.2',
    '--shard_tokens=50000',
  )


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'straight'
  commands.succeed(
    'pretrain', *TINY, f'--workdir={workdir}', f'--config.data.path={data}'
  )
  return workdir


def test_killed_and_restarted_is_the_same_run(data, run, tmp_path, ended):
  workdir = tmp_path / 'killed'
  args = (*TINY, f'--workdir={workdir}', f'--config.data.path={data}')
  process = ended(commands.start('pretrain', *args))
  commands.await_until(process, (workdir / 'checkpoints' / '3').is_dir)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  commands.succeed('pretrain', *args)
  for name in ('eval_loss', 'eval_perplexity', 'step'):
    assert (
      _json(run / 'scores.json')[name] == _json(workdir / 'scores.json')[name]
    )
  small_runs.assert_same(run, workdir)
  assert len(small_runs.rows(run)) == 12 + 2
  assert checkpoint.steps(str(run))[-1] == 12


def test_pretrain_refuses_impossible_settings(data, run, tmp_path):
  args = (*TINY, f'--config.data.path={data}', f'--workdir={tmp_path}/x')
  assert 'exactly one' in commands.fail(
    'pretrain', *args, '--config.train.num_epochs=1'
  )
  assert 'n_head' in commands.fail('pretrain', *args, '--config.model.n_head=7')
  assert 'devices' in commands.fail('pretrain', *args, '--config.mesh.data=5')
  assert 'another' in commands.fail(
    'pretrain',
    *args[:-1],
    f'--workdir={run}',
    '--config.optim.peak_lr=0.5',
  )
  done = commands.run('pretrain', *args, '--config.model.typo=1')
  assert done.returncode != 0
  assert 'typo' in done.stderr


def test_generate_and_evaluate(data, run, tmp_path):
  prompt = ('--prompt=The object', f'--workdir={run}', '--max_tokens=8')
  once = commands.succeed('generate', *prompt, '--num_samples=2', '--top_k=5')
  assert once == commands.succeed(
    'generate', *prompt, '--num_samples=2', '--top_k=5'
  )
  assert once.count('the object') == 2
  assert commands.succeed('generate', *prompt, '--greedy').startswith(
    'the object'
  )
  row = json.loads(commands.succeed('evaluate', f'--workdir={run}'))
  assert row['eval_loss'] == pytest.approx(
    _json(run / 'scores.json')['eval_loss'], rel=1e-6
  )
  assert 'not a run' in commands.fail('evaluate', f'--workdir={tmp_path}')
  line = commands.fail('evaluate', f'--workdir={run}', f'--data={tmp_path}')
  assert f'{tmp_path}: no prepared shards here' in line
  assert 'no checkpoint 5' in commands.fail(
    'generate', *prompt, '--checkpoint=5'
  )


def test_finetune_pretrained_and_scratch(data, run, tmp_path):
  rng = np.random.default_rng(0)
  task = tmp_path / 'task'
  task.mkdir()
  for split, count in (('train', 64), ('dev', 24)):
    with (task / f'{split}.jsonl').open('w') as file:
      for _ in range(count):
        label = int(rng.integers(2))
        word = ('class', 'module')[label]
        text = f'the {word} object is {rng.integers(100)} times called'
        row = {'text': text, 'label': ('bad', 'good')[label]}
        file.write(json.dumps(row) + '\n')
  options = (
    f'--config.data.path={task}',
    '--config.train.num_epochs=8',
    '--config.data.batch_size=8',
    '--config.optim.peak_lr=2e-3',
  )
  for name, start in (
    ('pretrained', (f'--config.init_from={run}',)),
    ('scratch', ('--config.init_from=none', f'--config.like={run}')),
    ('openai', (f'--config.init_from={run}',)),
  ):
    workdir = tmp_path / name
    words = ':openai' if name == 'openai' else ''
    config = f'--config=configs/own_task.py{words}'
    commands.succeed(
      'finetune', config, *options, *start, f'--workdir={workdir}'
    )
    scores = _json(workdir / 'scores.json')
    table = (workdir / 'predictions' / 'dev.tsv').read_text().splitlines()
    rows = [line.split('\t') for line in table[1:]]
    assert len(rows) == 24
    right = np.mean([int(r[1]) == int(r[2]) for r in rows])
    assert scores['score'] == pytest.approx(right)
    assert right > 0.9
    # The scores are those of the best checkpoint on dev; among equals, the
    # first.
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    evaluations = {
      row['step']: row['eval_accuracy']
      for row in map(json.loads, lines)
      if 'eval_accuracy' in row
    }
    assert len(evaluations) == 8
    best = max(evaluations.values())
    assert scores['score'] == pytest.approx(best)
    assert scores['step'] == min(s for s, x in evaluations.items() if x == best)
    numerics = ('sum', 'tokens') if name != 'openai' else ('matrix', 'all')
    model = scores['model']
    assert (model['embedding_dropout'], model['softmax_rows']) == numerics
  report = tmp_path / 'report'
  said = commands.succeed(
    'report', f'--runs={run},{tmp_path}', f'--output={report}'
  )
  assert '4 runs: 1 pretraining, 3 fine-tuning' in said
  text = (report / 'results.md').read_text()
  for name, model in (('pretrained', 'full'), ('scratch', 'no pretraining')):
    score = _json(tmp_path / name / 'scores.json')['score']
    cells = f'{name} | {100 * score:.1f} | my_task | {model} | accuracy | '
    (row,) = [x for x in text.splitlines() if cells in x]
    assert ' | own dev, 24 | 1 | ' in row
    tokens = _json(run / 'scores.json')['tokens_seen']
    assert f' | {tokens / 1000:.1f} k | ' in row or name == 'scratch'
  bad = task / 'dev.jsonl'
  bad.write_text('{"text": "x", "label": "so-so"}\n')
  line = commands.fail(
    'finetune',
    '--config=configs/own_task.py',
    *options,
    f'--config.init_from={run}',
    f'--workdir={tmp_path}/bad',
  )
  assert 'dev.jsonl' in line
  assert 'so-so' in line


@pytest.mark.slow
def test_the_lstm_in_every_command(data, tmp_path):
  """Pretrains, resumes, evaluates, samples and fine-tunes."""
  workdir, tuned = tmp_path / 'lstm', tmp_path / 'tuned'
  pretrain = (
    'pretrain',
    '--config=configs/pretrain.py:lstm,tiny',
    '--config.train.num_steps=4',
    '--config.train.eval_every=4',
    '--config.train.checkpoint_every=2',
    '--config.train.log_every=1',
    '--config.data.batch_size=8',
    '--config.model.units=32',
    '--config.model.n_embd=16',
    f'--workdir={workdir}',
    f'--config.data.path={data}',
  )
  commands.succeed(*pretrain)
  straight, meta, step = checkpoint.read(str(workdir))
  assert meta.model.kind == 'lstm'
  assert (meta.model.units, step) == (32, 4)
  scores = _json(workdir / 'scores.json')
  shutil.rmtree(workdir / 'checkpoints' / '4')
  commands.succeed(*pretrain)
  resumed, _, step = checkpoint.read(str(workdir))
  assert step == 4
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  assert scores == _json(workdir / 'scores.json')

  # In the same batches: other ones round nearly equal losses otherwise.
  row = json.loads(
    commands.succeed('evaluate', f'--workdir={workdir}', '--batch_size=8')
  )
  assert row['eval_loss'] == pytest.approx(scores['eval_loss'], rel=1e-7)
  prompt = ('--prompt=The object', '--max_tokens=4', '--greedy')
  text = commands.succeed('generate', f'--workdir={workdir}', *prompt)
  assert text.startswith('the object')
  task = small_runs.write_task(tmp_path / 'task', train=16, dev=16)
  finetune = (
    f'--config.init_from={workdir}',
    f'--config.data.path={task}',
    f'--workdir={tuned}',
    '--config.train.num_steps=2',
    '--config.data.lengths=(32,)',
  )
  config = '--config=configs/own_task.py'
  assert 'use configs/finetune.py:TASK,lstm' in commands.fail(
    'finetune', f'{config}:tiny', *finetune
  )
  commands.succeed('finetune', f'{config}:lstm,tiny', *finetune)
  facts = _json(tuned / 'config.json')
  assert facts['model']['kind'] == facts['config']['model']['kind'] == 'lstm'
  assert facts['layers_transferred'] == 1
  assert _json(tuned / 'scores.json')['model']['units'] == 32
  assert len((tuned / 'predictions' / 'dev.tsv').read_text().splitlines()) == 17
  row = json.loads(
    commands.succeed('evaluate', f'--workdir={tuned}', f'--data={data}')
  )
  assert np.isfinite(row['eval_loss'])
  sst2 = task / 'SST-2' / 'dev.tsv'
  sst2.parent.mkdir()
  sst2.write_text('sentence\tlabel\na good object\t1\na bad one\t0\n')
  zero_shot = ('--suite=zero_shot', '--tasks=sst2', f'--tasks_path={task}')
  commands.succeed('evaluate', f'--workdir={workdir}', *zero_shot)
  row = json.loads((workdir / 'zero_shot.jsonl').read_text())
  assert (row['task'], row['step']) == ('sst2', 4)
  line = commands.fail(
    'convert', f'--input={workdir}', f'--output={tmp_path}/hf'
  )
  assert 'model.kind is lstm' in line


def _json(path):
  return json.loads(path.read_text())
