"""Fine-tuning on real rows: seeds, tasks in turn, resumption."""

import copy
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest
from absl import logging
from flax import linen as nn
from jax import monitoring

from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.settings import GPTConfig
from gpt1_jax.tasks import all_tasks, finetuning, initialization, table
from gpt1_jax.train import checkpoint, step as step_lib
from tests.support import prediction_files, vocabulary

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = {
  'kind': 'gpt',
  'n_layer': 1,
  'n_head': 2,
  'n_embd': 16,
  'n_ctx': 64,
  'embd_pdrop': 0.1,
  'attn_pdrop': 0.1,
  'resid_pdrop': 0.1,
  'embedding_dropout': 'sum',
  'softmax_rows': 'tokens',
  'dtype': 'float32',
  'attention': 'auto',
  'remat': 'none',
  'unroll': 1,
}


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """A run of a network that has learned nothing, with a tokenizer."""
  from pydoc_data import topics

  workdir = tmp_path_factory.mktemp('runs') / 'pretrained'
  workdir.mkdir()
  words = vocabulary.train_bpe(list(topics.topics.values())[:20], 100)
  words.save(workdir / 'tokenizer')
  config = GPTConfig(**MODEL, vocab_size=words.vocab_size, n_special=0)
  tokens_BT = jnp.zeros((1, 8), jnp.int32)
  variables = gpt.GPT(config).init(
    jax.random.key(1), tokens_BT, dropout_key=None
  )
  params = {'gpt': nn.unbox(variables['params'])}
  state = step_lib.TrainState(jnp.zeros([], jnp.int32), params, ())
  checkpoints = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=False)
  meta = {'model': vars(config), 'tokenizer_fingerprint': words.fingerprint}
  checkpoints.save(1, state, meta)
  checkpoints.close()
  return workdir


@pytest.fixture
def configure(pretrained, monkeypatch):
  """(task, path, changes by dotted name) → plain configuration."""
  monkeypatch.syspath_prepend(ROOT)
  from configs import finetune as config_file

  def made(task, path, **changes):
    config = config_file.get_config(f'{task},tiny').to_dict()
    config['init_from'] = str(pretrained)
    config['data'] |= {'path': str(path), 'batch_size': 8, 'lengths': ()}
    config['train'] |= {'num_steps': 4, 'log_every': 4}
    config['optim']['peak_lr'] = 1e-2
    for name, value in changes.items():
      section, key = name.split('__')
      assert key in config[section]
      config[section][key] = value
    return config

  return made


# What a row of results.md is of, for tasks of every kind.
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
    all_tasks.finetune(config, str(workdir))
  said = capsys.readouterr().out
  assert f'race: not found in {data}; the other tasks are run' in said
  assert '| race ' in said
  assert 'no train file of task race' in (workdir / 'results.md').read_text()

  # Mended and started again, only what is missing runs.
  times = {
    path: path.stat().st_mtime_ns for path in workdir.glob('*/scores.json')
  }
  assert len(times) == 2
  shutil.copy(archives / 'race-all.zip', data)
  results = all_tasks.finetune(config, str(workdir))
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
  given = finetuning.Tuning.run

  def counted(job, workdir, number):
    result = given(job, workdir, number)
    counts.append(compiled())
    return result

  monkeypatch.setattr(finetuning.Tuning, 'run', counted)
  archives = shared_data / 'tasks' / 'archives'
  config = configure('mrpc', archives, train__seeds=2, train__seed=5)
  workdir = tmp_path / 'runs'
  all_tasks.finetune(config, str(workdir))
  assert counts[0] > 0
  assert counts[1] == counts[0]  # the second seed compiled nothing

  # One more seed: the others are read back, none is run again.
  times = [p.stat().st_mtime_ns for p in sorted(workdir.glob('*/scores.json'))]
  config['train']['seeds'] = 3
  result = all_tasks.finetune(config, str(workdir))
  assert len(counts) == 3
  again = [p.stat().st_mtime_ns for p in sorted(workdir.glob('*/scores.json'))]
  assert again[:2] == times
  each = [
    json.loads((workdir / f'seed-{seed}' / 'scores.json').read_text())
    for seed in (5, 6, 7)
  ]
  assert [one['seed'] for one in each] == result['seeds'] == [5, 6, 7]
  assert result == json.loads((workdir / 'scores.json').read_text())
  assert result['score'] == result['spread']['dev']['f1']['median']
  best = workdir / f'seed-{result["best_seed"]}' / 'submission' / 'MRPC.tsv'
  submission = workdir / 'submission' / 'MRPC.tsv'
  assert submission.read_text() == best.read_text()
  outputs = [
    (workdir / f'seed-{seed}' / 'predictions/dev.tsv').read_text()
    for seed in (5, 6, 7)
  ]
  assert len(set(outputs)) == 3

  # A seed of the many is the run of that seed alone, bit for bit, stopped
  # after its first checkpoint and gone on with.
  alone = configure('mrpc', archives, train__seed=6, data__seed=1)
  with monkeypatch.context() as patch:
    evaluate, calls = finetuning.Tuning._evaluate, []

    def stopped(job, params):
      calls.append(params)
      if len(calls) == 2:
        raise KeyboardInterrupt
      return evaluate(job, params)

    patch.setattr(finetuning.Tuning, '_evaluate', stopped)
    with pytest.raises(KeyboardInterrupt):
      all_tasks.finetune(alone, str(tmp_path / 'alone'))
  assert [p.name for p in (tmp_path / 'alone/checkpoints').iterdir()] == ['2']
  all_tasks.finetune(alone, str(tmp_path / 'alone'))
  found = (tmp_path / 'alone' / 'predictions' / 'dev.tsv').read_text()
  assert found == outputs[1]
  for folder, seeds in ((tmp_path / 'alone', 2), (workdir, 1)):
    config['train']['seeds'] = seeds
    with pytest.raises(UserError, match='give another --workdir'):
      all_tasks.finetune(config, str(folder))


def test_what_is_wrong_with_all_is_said_once(configure, tmp_path):
  config = configure('rte', tmp_path)
  config['task'] = 'all'
  for section, key, value, what in (
    ('init_from', None, str(tmp_path), 'not a run'),
    ('data', 'path', None, 'config.data.path is not set'),
    ('data', 'path', str(tmp_path / 'absent'), 'no such file or folder'),
  ):
    wrong = copy.deepcopy(config)
    if key:
      wrong[section][key] = value
    else:
      wrong[section] = value
    with pytest.raises(UserError, match=what):
      all_tasks.finetune(wrong, str(tmp_path / 'runs'))
    assert not (tmp_path / 'runs').exists()
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(UserError, match='holds a run; give another --workdir'):
    all_tasks.finetune(config, str(tmp_path))


@pytest.mark.parametrize(
  ('task', 'value', 'what'),
  [
    ('stsb', 'vector', "config.head.regression is 'vector'"),
    ({'kind': 'similarity'}, 'classes', 'task own: config.head.regression=cl'),
  ],
)
def test_heads_that_do_not_fit_are_refused(task, value, what):
  def head():
    settings = initialization.HeadSettings(0.1, 0.5, 'tokens', value)
    return initialization.new_head(table.resolve(task), settings)

  with pytest.raises(UserError, match=what):
    head()


def test_heads_have_the_outputs_of_their_task():
  for name, value, outputs in (
    ('stsb', 'scalar', 1),
    ('stsb', 'classes', 6),
    ('mnli', 'classes', 3),
    ('race', 'scalar', 1),
  ):
    settings = initialization.HeadSettings(0.1, 0.5, 'tokens', value)
    head = initialization.new_head(table.TASKS[name], settings)
    assert (head.num_outputs, head.clf_pdrop) == (outputs, 0.1)
