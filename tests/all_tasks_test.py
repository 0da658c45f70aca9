"""Fine-tuning on real rows: seeds, tasks in turn, resumption."""

import dataclasses
import json
import shutil

import pytest
from absl import logging
from jax import monitoring

from gpt1_jax.errors import RunError, UserError
from gpt1_jax.reporting import cells, runs
from gpt1_jax.task_settings import HeadSettings, OwnTask
from gpt1_jax.tasks import all_tasks, finetuning, initialization, table
from gpt1_jax.train import checkpoint, score_file
from tests.support import (
  finetuning as finetuning_runs,
  prediction_files,
  small_runs,
)


def finetune(values, workdir):
  """Fine-tunes with a plain configuration."""
  config = finetuning_runs.parsed(values)
  return all_tasks.finetune(config, str(workdir), config.data.path)


# Task, split and metric of a row of results.md, for each kind of task.
FEW = ('mnli', 'race', 'stsb')


@pytest.mark.slow
def test_tasks_in_turn(configure, shared_data, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(table, 'TWELVE', FEW)
  data, workdir = tmp_path / 'data', tmp_path / 'runs'
  archives = shared_data / 'tasks' / 'archives'
  shutil.copytree(archives, data, ignore=shutil.ignore_patterns('race*'))
  config = configure('rte', data, train__num_steps=2, train__log_every=2)
  config['task'] = 'all'
  config['head']['regression'] = 'classes'
  with pytest.raises(UserError, match=r'1 of 3 tasks have no score \(race\)'):
    finetune(config, workdir)
  said = capsys.readouterr().out
  assert f'race: not found in {data}; the other tasks are run' in said
  assert '| race ' in said
  assert 'no train file of task race' in (workdir / 'results.md').read_text()

  # After the mistake is mended, only the missing tasks run.
  times = {
    path: path.stat().st_mtime_ns for path in workdir.glob('*/scores.json')
  }
  assert len(times) == 2
  shutil.copy(archives / 'race-all.zip', data)
  results = finetune(config, workdir)
  assert all(path.stat().st_mtime_ns == t for path, t in times.items())
  assert list(results) == list(FEW)
  assert results == json.loads((workdir / 'results.json').read_text())
  splits = {name: set(result['splits']) for name, result in results.items()}
  halves = {
    f'{s}{h}' for s in ('dev', 'test') for h in ('', '_middle', '_high')
  }
  assert splits == {
    'mnli': {'dev', 'dev_mismatched'},
    'race': halves,
    'stsb': {'dev'},
  }
  for name, result in results.items():
    assert result['score'] == result['splits']['dev'][result['metric']]
    for split, scores in result['splits'].items():
      path = workdir / name / 'predictions' / f'{split}.tsv'
      _, lines = prediction_files.read_table(path)
      assert len(lines) == result['counts'][split]['examples']
      recomputed = prediction_files.recomputed(table.TASKS[name], path)
      assert scores == pytest.approx(recomputed, abs=1e-6)
  assert {path.name for path in (workdir / 'submission').iterdir()} == {
    'MNLI-m.tsv',
    'MNLI-mm.tsv',
    'AX.tsv',
    'STS-B.tsv',
  }
  _, lines = prediction_files.read_table(workdir / 'stsb/predictions/dev.tsv')
  assert [len(line[3].split()) for line in lines] == [6, 6]


@pytest.fixture
def compiled():
  """Counts what XLA compiles."""
  events = []

  def listener(name, *_, **__):
    events.append(name)

  monitoring.register_event_duration_secs_listener(listener)
  yield lambda: events.count('/jax/core/compile/backend_compile_duration')
  monitoring.unregister_event_duration_listener(listener)


def test_reading_a_run_leaves_warnings_on(pretrained):
  before = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)
  checkpoint.read(str(pretrained))
  checkpoint.Checkpoints(str(pretrained), keep=1, keep_best=False).close()
  assert logging.get_verbosity() == logging.WARNING
  logging.set_verbosity(before)


@pytest.mark.slow
def test_seeds_compile_once_and_resume(
  configure, shared_data, tmp_path, compiled, monkeypatch
):
  counts = []
  given = finetuning.Finetuner.run

  def counted(job, workdir, number):
    result = given(job, workdir, number)
    counts.append(compiled())
    return result

  monkeypatch.setattr(finetuning.Finetuner, 'run', counted)
  archives = shared_data / 'tasks' / 'archives'
  config = configure('mrpc', archives, train__seeds=2, train__seed=5)
  workdir = tmp_path / 'runs'
  finetune(config, workdir)
  assert counts[0] > 0
  assert counts[1] == counts[0]  # the second seed compiled nothing

  # One more seed: no other seed is run again.
  times = [p.stat().st_mtime_ns for p in sorted(workdir.glob('*/scores.json'))]
  config['train']['seeds'] = 3
  result = finetune(config, workdir)
  assert len(counts) == 3
  again = [p.stat().st_mtime_ns for p in sorted(workdir.glob('*/scores.json'))]
  assert again[:2] == times
  each = [
    json.loads((workdir / f'seed-{seed}' / 'scores.json').read_text())
    for seed in (5, 6, 7)
  ]
  assert [one['seed'] for one in each] == result['seeds'] == [5, 6, 7]
  assert result == score_file.read(workdir)
  assert result['score'] == result['spread']['dev']['f1']['median']
  best = workdir / f'seed-{result["best_seed"]}' / 'submission' / 'MRPC.tsv'
  submission = workdir / 'submission' / 'MRPC.tsv'
  assert submission.read_text() == best.read_text()
  outputs = [
    (workdir / f'seed-{seed}' / 'predictions/dev.tsv').read_text()
    for seed in (5, 6, 7)
  ]
  assert len(set(outputs)) == 3

  # One of several seeds equals a run of that seed alone, bit for bit, even if
  # that is stopped after its first checkpoint and resumed.
  alone = configure('mrpc', archives, train__seed=6, data__seed=1)
  with monkeypatch.context() as patch:

    def stopped(job, params):
      raise KeyboardInterrupt

    patch.setattr(finetuning.Finetuner, '_evaluate', stopped)
    with pytest.raises(KeyboardInterrupt):
      finetune(alone, tmp_path / 'alone')
  assert [p.name for p in (tmp_path / 'alone/checkpoints').iterdir()] == ['2']
  finetune(alone, tmp_path / 'alone')
  found = (tmp_path / 'alone' / 'predictions' / 'dev.tsv').read_text()
  assert found == outputs[1]
  for folder, seeds in ((tmp_path / 'alone', 2), (workdir, 1)):
    config['train']['seeds'] = seeds
    with pytest.raises(UserError, match='use another --workdir'):
      finetune(config, folder)


@pytest.mark.slow
def test_patience_ends_each_seed_where_its_score_is_best(
  configure, tmp_path, capsys, monkeypatch
):
  """The second of two seeds has a better score later, and trains on."""
  given = iter((0.5, 0.4, 0.1, 0.2, 0.3))
  monkeypatch.setattr(
    finetuning.Finetuner, '_evaluate', lambda *_: {'eval_accuracy': next(given)}
  )
  small_runs.write_task(tmp_path, train=2, dev=2)
  config = configure('', tmp_path)
  config['task'] = {'kind': 'classification', 'labels': ('bad', 'good')}
  config['data'] |= {'batch_size': 8, 'lengths': (16,)}
  config['train'] |= {
    'seeds': 2,
    'num_steps': 3,
    'eval_every': 1,
    'patience': 1,
  }
  workdir = tmp_path / 'runs'
  result = finetune(config, workdir)
  first, second = (
    json.loads((workdir / f'seed-{seed}' / 'scores.json').read_text())
    for seed in (0, 1)
  )
  assert (first['step'], first['updates'], first['num_steps']) == (1, 2, 3)
  assert (second['step'], second['updates']) == (3, 3)
  assert (result['step'], result['updates']) == (None, None)
  said, block = capsys.readouterr()
  assert '        loss  task + 0.5 x language model\n' in block
  ended = 'ended early, after 2 of 3 updates: train.patience is 1'
  assert said.count(ended) == said.count('ended early') == 1
  found = runs.load(workdir / 'seed-0')
  assert found.state == 'finished early: update 2 of 3'
  assert '3 updates, patience 1' in cells.settings(found)
  config['train']['patience'] = 0  # longer: the first seed continues
  given = iter((0.6,))
  finetune(config, workdir)
  first = json.loads((workdir / 'seed-0' / 'scores.json').read_text())
  assert (first['step'], first['updates']) == (3, 3)


def test_mistakes_of_all_tasks_are_reported_once(configure, tmp_path):
  config = configure('rte', tmp_path)
  config['task'] = 'all'
  with pytest.raises(UserError, match='not a run'):
    finetune({**config, 'init_from': str(tmp_path)}, tmp_path / 'runs')
  assert not (tmp_path / 'runs').exists()
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='holds a run; use another --workdir'):
    finetune(config, tmp_path)


HEAD = HeadSettings(
  clf_pdrop=0.1, lm_coef=0.5, lm_reduction='tokens', regression='classes'
)


def test_a_head_that_does_not_fit_the_task_is_refused():
  own = table.resolve(OwnTask(kind='similarity'))
  with pytest.raises(UserError, match='task own: config'):
    initialization.new_head(own, HEAD)


def test_heads_have_the_outputs_of_their_task():
  for name, value, outputs in (
    ('stsb', 'scalar', 1),
    ('stsb', 'classes', 6),
    ('mnli', 'classes', 3),
    ('race', 'scalar', 1),
  ):
    settings = dataclasses.replace(HEAD, regression=value)
    head = initialization.new_head(table.TASKS[name], settings)
    assert (head.num_outputs, head.clf_pdrop) == (outputs, 0.1)


def test_a_run_removed_while_it_is_scored_stays_removed(
  configure, tmp_path, monkeypatch
):
  data = small_runs.write_task(tmp_path / 'task', train=16, dev=4)
  config = configure('rte', data)
  config['task'] = {'kind': 'classification', 'labels': ['bad', 'good']}
  workdir = tmp_path / 'run'

  def remove(*_):
    shutil.rmtree(workdir)
    return []

  monkeypatch.setattr(finetuning.metrics, 'remarks', remove)
  with pytest.raises(RunError, match='was moved or removed'):
    finetune(config, workdir)
  assert not workdir.exists()
