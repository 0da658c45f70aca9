"""Tests the convert command and what becomes of its runs."""

import json
import math
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from gpt1_jax.corpus import tokenization
from gpt1_jax.interop import conversion, openai
from gpt1_jax.reporting import runs, tables
from gpt1_jax.train import checkpoint, run
from tests.support import commands, released, small_runs
from tests.support.conversions import from_openai, refused

pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
pytest.importorskip(
  'safetensors.numpy', reason="pip install 'gpt1_jax[openai]'"
)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Writes a folder in the released layout; returns it and its arrays."""
  folder = tmp_path_factory.mktemp('released') / 'model'
  return folder, released.write(folder)


@pytest.fixture(scope='module')
def converted(model, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'converted'
  commands.succeed('convert', f'--input={model[0]}', f'--output={workdir}')
  return workdir


def test_released_layout_becomes_a_run(model, converted):
  source, values = model
  params, meta, step = checkpoint.read(str(converted))
  released.assert_params(params, values, n_head=2)
  assert step == 0
  bpe = tokenization.load(converted)
  assert bpe.fingerprint == tokenization.load(source).fingerprint
  assert meta.tokenizer_fingerprint == bpe.fingerprint
  config = meta.model
  assert (config.n_layer, config.n_head, config.n_embd) == (2, 2, 128)
  assert (config.n_ctx, config.n_special) == (16, 0)
  assert config.vocab_size == bpe.vocab_size
  header = run.load(str(converted))
  assert header['command'] == 'convert'
  assert header['parameters'] == sum(value.size for value in values)
  assert not list(converted.parent.glob('*.incomplete'))


def test_settings_that_no_file_holds_are_those_of_the_openai_preset():
  preset = pretrain_config.get_config('openai').model.to_dict()
  shape = {'n_layer', 'n_head', 'n_embd', 'n_ctx'}
  assert openai.RELEASED.keys() | shape == preset.keys()
  assert preset | openai.RELEASED == preset


def test_the_commands_take_a_converted_run(converted, tmp_path):
  out = commands.succeed(
    'generate', f'--workdir={converted}', '--prompt=Rat', '--max_tokens=5'
  )
  assert out.startswith('r')
  line = commands.fail('evaluate', f'--workdir={converted}')
  assert 'was not trained here' in line
  assert '--data' in line
  books = tmp_path / 'books'
  books.mkdir()
  for i in range(6):
    (books / f'{i}.txt').write_text(f'rats eat {"nuts " * (9 + i)}\nends')
  commands.succeed(
    'prepare',
    f'--input={books}',
    f'--output={tmp_path / "data"}',
    f'--tokenizer={converted}',
    '--validation_fraction=0.5',
  )
  out = commands.succeed(
    'evaluate', f'--workdir={converted}', f'--data={tmp_path / "data"}'
  )
  assert math.isfinite(json.loads(out)['eval_loss'])
  table = tables.pretraining([runs.load(converted)])
  assert table.rows[0]['corpus'] == 'trained elsewhere'


@pytest.mark.slow
def test_special_rows_are_drawn_when_fine_tuning_starts(converted, tmp_path):
  """N(0, 0.02), from the seed of that run; everything else is unchanged."""
  task = small_runs.write_task(tmp_path / 'task', train=8, dev=8)
  pretrained, meta, _ = checkpoint.read(str(converted))
  commands.succeed(
    'finetune',
    '--config=configs/own_task.py:openai',
    f'--config.data.path={task}',
    f'--config.init_from={converted}',
    '--config.train.seeds=2',
    '--config.train.num_epochs=0',
    '--config.train.num_steps=1',
    '--config.data.batch_size=8',
    '--config.optim.peak_lr=1e-30',  # too small to change a weight
    f'--workdir={tmp_path / "runs"}',
  )
  specials, heads = [], []
  for seed in (0, 1):
    params, tuned, _ = checkpoint.read(str(tmp_path / f'runs/seed-{seed}'))
    tokens = params['gpt'].pop('tokens_embed')
    specials.append(tokens[-3:])
    heads.append(params['head']['clf']['kernel'])
    body = dict(pretrained['gpt'])
    np.testing.assert_array_equal(tokens[:-3], body.pop('tokens_embed'))
    released.assert_same(params['gpt'], body)
    assert tuned.model.embedding_dropout == meta.model.embedding_dropout
    assert tuned.model.softmax_rows == meta.model.softmax_rows
  assert (specials[0] != specials[1]).all()
  assert (heads[0] != heads[1]).any()
  for rows in specials:  # 384 draws: the standard error of std is 0.0007
    assert abs(rows.std() - 0.02) < 0.003
    assert abs(rows.mean()) < 0.004


def test_a_slim_run_has_the_weights_in_bfloat16(converted, model, tmp_path):
  slim = tmp_path / 'slim'
  commands.succeed(
    'convert', f'--input={converted}', f'--output={slim}', '--slim'
  )
  whole, meta, step = checkpoint.read(str(converted))
  found, *rest = checkpoint.read(str(slim))
  assert rest == [meta, step]
  rounded = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(np.float32), whole
  )
  released.assert_same(found, rounded)

  def size(folder):
    return sum(p.stat().st_size for p in folder.rglob('state/**/d/*'))

  assert size(slim) < 0.7 * size(converted)
  text = '--prompt=the', '--max_tokens=3', '--greedy'
  assert commands.succeed('generate', f'--workdir={slim}', *text).startswith(
    'the'
  )
  refused = commands.fail(
    'convert', f'--input={model[0]}', f'--output={tmp_path / "x"}', '--slim'
  )
  assert '--slim does not apply' in refused


@pytest.mark.parametrize('kind', ['run', 'folder'])
def test_a_full_disk_leaves_nothing(
  kind, model, converted, tmp_path, monkeypatch
):
  if kind == 'run':
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    message = refused(from_openai, model[0], tmp_path)
    assert 'the disk is too full: 1 MB are free, 12 MB are needed' in message
    return
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
  try:
    message = refused(conversion.to_huggingface, converted, tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert 'nothing was written: free some disk space' in message


def test_the_command_refuses_mistakes(model, converted, tmp_path):
  full = tmp_path / 'full'
  full.mkdir()
  (full / 'file').touch()
  for source, output, option, message in (
    (tmp_path / 'none', 'x', None, 'no such folder'),
    (full, 'x', None, 'no model here'),
    (converted.parent, 'x', None, f'holds runs; give one, such as {converted}'),
    (model[0], 'full', None, 'already exists'),
    (converted, 'x', '--n_head=2', '--n_head does not apply'),
    (model[0], 'x', '--checkpoint=3', "OpenAI's arrays"),
    (converted, 'x', '--checkpoint=3', 'no checkpoint 3'),
  ):
    args = [f'--input={source}', f'--output={tmp_path / output}']
    line = commands.fail('convert', *args, *([option] if option else []))
    assert message in line
  assert sorted(p.name for p in tmp_path.iterdir()) == ['full']
