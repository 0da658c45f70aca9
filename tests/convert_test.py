"""Converts weights to and from other programs' files, bit for bit."""

import dataclasses
import json
import math
import re
import resource
import shutil
import sys
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from gpt1_jax import storage
from gpt1_jax.corpus import openai_tokenizer, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion, huggingface, layouts, openai
from gpt1_jax.model import gpt
from gpt1_jax.reporting import runs, tables
from gpt1_jax.train import checkpoint, run
from tests.support import commands, released, small_runs

pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
safetensors = pytest.importorskip(
  'safetensors.numpy', reason="pip install 'gpt1_jax[openai]'"
)


def from_openai(folder, workdir, n_head=None):
  conversion.to_run(openai.read(folder, n_head), folder, workdir)
  return checkpoint.read(str(workdir))


def from_huggingface(folder, workdir):
  conversion.to_run(huggingface.read(folder), folder, workdir)
  return checkpoint.read(str(workdir))


def refused(convert, source, tmp_path):
  """Returns the message of a refused conversion, which writes nothing."""
  with pytest.raises(UserError) as caught:
    convert(source, tmp_path / 'refused')
  assert not list(tmp_path.glob('refused*'))
  message = str(caught.value)
  assert '\n' not in message
  return message


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


@pytest.fixture(scope='module')
def folder(converted, tmp_path_factory):
  """The Hugging Face folder of the converted run."""
  out = tmp_path_factory.mktemp('hf') / 'folder'
  commands.succeed('convert', f'--input={converted}', f'--output={out}')
  return out


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
  specials, heads = [], []
  for seed in (0, 1):
    workdir = tmp_path / str(seed)
    commands.succeed(
      'finetune',
      '--config=configs/own_task.py:openai',
      f'--config.data.path={task}',
      f'--config.init_from={converted}',
      f'--config.train.seed={seed}',
      '--config.train.num_epochs=0',
      '--config.train.num_steps=1',
      '--config.data.batch_size=8',
      '--config.optim.peak_lr=1e-30',  # too small to change a weight
      f'--workdir={workdir}',
    )
    params, tuned, _ = checkpoint.read(str(workdir))
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


def test_a_release_without_leading_axes(shared_data, tmp_path):
  """AllenNLP's fixture; its vocabulary also lacks pieces."""
  with tarfile.open(shared_data / 'vocab/transformer_small.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  folder = tmp_path / 'model'
  with pytest.raises(
    UserError, match='cannot infer the number of heads from width 10'
  ):
    openai.read(folder, None)
  params, meta, _ = from_openai(folder, tmp_path / 'run', n_head=2)
  shapes = json.loads((folder / openai.SHAPES).read_text())
  flat = np.concatenate([np.load(folder / f'params_{i}.npy') for i in (0, 1)])
  ends = np.cumsum([math.prod(shape) for shape in shapes])
  assert ends[-1] == flat.size
  values = [
    part.reshape(shape)
    for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
  ]
  released.assert_params(params, values, n_head=2)
  tokens = jnp.array([tokenization.load(tmp_path / 'run').encode('ee wow oo')])
  h_BTD, _ = gpt.GPT(meta.model).apply(
    {'params': params['gpt']}, tokens, dropout_key=None
  )
  assert jnp.isfinite(h_BTD).all()
  conversion.to_huggingface(tmp_path / 'run', tmp_path / 'hf')
  assert not (tmp_path / 'hf' / 'tokenizer.json').exists()
  again, *_ = from_huggingface(tmp_path / 'hf', tmp_path / 'back')
  released.assert_same(again, params)


@pytest.mark.slow
def test_the_full_release(shared_data, tmp_path):
  """116,534,784 numbers pass ten files, a run and a folder unchanged."""
  shapes = json.loads((shared_data / 'vocab/params_shapes.json').read_text())
  folder = tmp_path / 'model'
  values = released.arrays(shapes)
  released.write_arrays(folder, shapes, values)
  for name in (openai_tokenizer.ENCODER_FILE, openai_tokenizer.MERGES_FILE):
    shutil.copyfile(shared_data / 'vocab' / name, folder / name)
  params, meta, _ = from_openai(folder, tmp_path / 'run')
  shutil.rmtree(folder)
  released.assert_params(params, values, n_head=12)
  del params
  assert run.load(str(tmp_path / 'run'))['parameters'] == 116_534_784
  assert meta.model.n_ctx == 512
  conversion.to_huggingface(tmp_path / 'run', tmp_path / 'hf')
  shutil.rmtree(tmp_path / 'run')
  names = layouts.shapes(n_layer=12, n_embd=768, n_ctx=512, rows=40_478)
  with safetensors.safe_open(
    tmp_path / 'hf' / huggingface.SAFETENSORS, 'numpy'
  ) as opened:
    assert len(opened.keys()) == 146
    for name, value in zip(names, values, strict=True):
      written = opened.get_tensor(f'transformer.{name}')
      np.testing.assert_array_equal(written, value.reshape(names[name]))
  loaded = tokenization.load(f'openai:{tmp_path / "hf"}')
  assert loaded.encode('the president is') == [481, 4735, 544]


def test_a_run_becomes_a_folder_and_a_run_again(converted, folder, tmp_path):
  assert sorted(p.name for p in folder.iterdir()) == [
    'README.md', 'config.json', 'merges.txt', 'model.safetensors',
    'tokenizer.json', 'tokenizer_config.json', 'vocab.json',
  ]  # fmt: skip
  for file in folder.iterdir():
    assert file.stat().st_mode & 0o044 == 0o044  # others may read it
  back = tmp_path / 'back'
  commands.succeed('convert', f'--input={folder}', f'--output={back}')
  params, meta, step = checkpoint.read(str(converted))
  again, *rest = checkpoint.read(str(back))
  released.assert_same(again, params)
  assert rest == [meta, step]
  for name in (openai_tokenizer.ENCODER_FILE, openai_tokenizer.MERGES_FILE):
    paths = [w / 'tokenizer' / name for w in (converted, back)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
  conversion.to_huggingface(back, tmp_path / 'again')
  for name in ('model.safetensors', 'config.json', 'tokenizer.json'):
    file = tmp_path / 'again' / name
    assert file.read_bytes() == (folder / name).read_bytes()


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


def test_a_fine_tuned_run_keeps_specials_and_head(converted, tmp_path):
  params, meta, _ = checkpoint.read(str(converted))
  draw = np.random.default_rng(2)
  rows = draw.standard_normal((3, 128), np.float32)
  tokens = np.concatenate([params['gpt']['tokens_embed'], rows])
  clf = {
    'kernel': draw.standard_normal((128, 2), np.float32),
    'bias': draw.standard_normal(2, np.float32),
  }
  params = {
    'gpt': {**params['gpt'], 'tokens_embed': tokens},
    'head': {'clf': clf},
  }
  config = dataclasses.replace(
    meta.model, n_special=3, softmax_rows='tokens', dtype='bfloat16'
  )
  meta = dataclasses.replace(meta, model=config)
  workdir, hf = tmp_path / 'tuned', tmp_path / 'hf'
  tuned = checkpoint.Checkpoint(params, meta, 7)
  released.save_run(workdir, 'finetune', tokenization.load(converted), tuned)
  scores = {
    'task': 'rte', 'metric': 'accuracy', 'split': 'dev', 'score': 0.56,
    'examples': 277, 'step': 7,
  }  # fmt: skip
  storage.write_json(workdir / 'scores.json', scores)
  conversion.to_huggingface(workdir, hf)
  readme = (hf / 'README.md').read_text()
  assert '| accuracy, dev set | 0.5600 |' in readme
  first = config.vocab_size
  assert f'Ids {first}, {first + 1} and {first + 2} are the start' in readme
  assert 'clf.kernel [128, 2]' in readme
  written = json.loads((hf / 'config.json').read_text())
  assert written['vocab_size'] == first + 3
  again, meta_again, step = from_huggingface(hf, tmp_path / 'back')
  released.assert_same(again, params)
  assert (meta_again.model, step) == (meta.model, 7)


def rewrite(folder, out, change_config=None, change=None):
  """Copies a Hugging Face folder with its config and tensors changed."""
  shutil.copytree(folder, out)
  file = out / 'model.safetensors'
  tensors = safetensors.load_file(file)
  config = json.loads((out / 'config.json').read_text())
  if change_config:
    change_config(config)
  if change:
    tensors = change(tensors)
  (out / 'config.json').write_text(json.dumps(config))
  safetensors.save_file(tensors, file, {'format': 'pt'})
  return out


def test_a_folder_of_an_older_version(converted, folder, tmp_path):
  """No prefix, masks among the weights, the tied matrix twice, no field."""

  def older(tensors):
    out = {k.removeprefix('transformer.'): v for k, v in tensors.items()}
    for i in range(2):
      out[f'h.{i}.attn.bias'] = np.ones((1, 1, 16, 16), np.uint8)
    out['lm_head.weight'] = out['tokens_embed.weight'].copy()
    out['multiple_choice_head.summary.bias'] = np.zeros(1, np.float32)
    return out

  def config(c):
    del c[huggingface.OURS]
    c['n_ctx'] = c.pop('n_positions')

  old = rewrite(folder, tmp_path / 'old', config, older)
  (old / 'vocab.json').unlink()  # tokenizer.json will do
  out = commands.succeed('convert', f'--input={old}', f'--output={tmp_path}/r')
  assert 'skipped multiple_choice_head.summary.bias' in out
  params, *rest = checkpoint.read(f'{tmp_path}/r')
  want, *want_rest = checkpoint.read(str(converted))
  released.assert_same(params, want)
  assert rest == want_rest


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16])
def test_half_precision_is_widened_exactly(folder, tmp_path, dtype):
  def halve(tensors):
    return {k: v.astype(dtype) for k, v in tensors.items()}

  half = rewrite(folder, tmp_path / 'half', change=halve)
  read, want = huggingface.read(half), huggingface.read(folder)
  for name, array in read.named.items():
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, want.named[name].astype(dtype))


def shard(folder, out):
  """Copies a folder; splits its weights into two files and an index."""
  shutil.copytree(folder, out)
  tensors = safetensors.load_file(out / 'model.safetensors')
  (out / 'model.safetensors').unlink()
  where = {name: f'part-{i % 2}.safetensors' for i, name in enumerate(tensors)}
  for file in ('part-0.safetensors', 'part-1.safetensors'):
    part = {k: v for k, v in tensors.items() if where[k] == file}
    safetensors.save_file(part, out / file)
  index = out / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  return index


def test_weights_in_shards(folder, tmp_path):
  index = shard(folder, tmp_path / 'hf')
  read, want = huggingface.read(tmp_path / 'hf'), huggingface.read(folder)
  released.assert_same(read.named, want.named)
  assert read.settings == want.settings
  (tmp_path / 'hf/part-1.safetensors').unlink()
  message = refused(from_huggingface, tmp_path / 'hf', tmp_path)
  assert message.endswith(f'part-1.safetensors: missing, but {index.name} '
                          'lists it')  # fmt: skip
  for damaged in ('[]', '{}', '{"weight_map": {"a": "../b"}}'):
    index.write_text(damaged)
    message = refused(from_huggingface, tmp_path / 'hf', tmp_path)
    assert message.startswith(f'{index}: weight_map does not map')


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


def _drop(name):
  return lambda folder: (folder / name).unlink()


def _write(name, text):
  return lambda folder: (folder / name).write_text(text)


def _save(name, *shape, value=0, dtype=np.float32):
  return lambda folder: np.save(folder / name, np.full(shape, value, dtype))


def _truncate(folder):
  file = folder / 'params_4.npy'
  file.write_bytes(file.read_bytes()[:-9])


def _claim_petabytes(folder):
  with (folder / 'params_4.npy').open('wb') as file:
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (10**17,)}
    np.lib.format.write_array_header_1_0(file, header)


def _break_header(folder):
  file = folder / 'params_4.npy'
  file.write_bytes(file.read_bytes().replace(b"shape': (", b'shap[0m('))


def _edit(name, change):
  def damage(folder):
    file = folder / name
    file.write_text(json.dumps(change(json.loads(file.read_text()))))

  return damage


def _set_shape(i, shape):
  return _edit(openai.SHAPES, lambda s: [*s[:i], shape, *s[i + 1 :]])


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (_drop(openai.SHAPES), 'params_shapes.json: missing'),
    (_drop('params_3.npy'), 'params_3.npy: missing.* up to params_9.npy'),
    (
      _drop('params_9.npy'),
      'the 9 files .* expects 4.* missing after params_8.npy',
    ),
    (_truncate, 'params_4.npy.* truncated .*; expected flat float32'),
    (_claim_petabytes, 'params_4.npy.* truncated .*; expected flat float32'),
    (_break_header, 'params_4.npy.* truncated .*; expected flat float32'),
    (_save('params_2.npy', 7), 'params_2.npy has 7, the others about 4'),
    (
      _save('params_2.npy', 40_371, dtype=np.float64),
      'params_2.npy: float64, expected float32',
    ),
    (_save('params_2.npy', 42_458, value=np.nan), 'contains NaN or infinity'),
    (_save('params_2.npy', 2, 3), r'params_2.npy: \[2, 3\], expected a flat'),
    (_save('params_10.npy', 9), 'the 11 files .* another model'),
    (
      _edit(openai.SHAPES, lambda s: s[:-1]),
      '25 arrays, expected 2 and 12 per layer',
    ),
    (
      _set_shape(5, [127]),
      r'array 5, h.0.attn.c_proj.bias, is \[127\], expected \[128\]',
    ),
    (
      _set_shape(2, [128, 1, 384]),
      r'c_attn.weight, is \[128, 1, 384\], expected \[1, 128, 384\]',
    ),
    (
      _set_shape(1, [40]),
      r'the embedding of tokens is \[40\], expected \[rows, n_embd\]',
    ),
    (_write(openai.SHAPES, '{"a": 1}'), 'json: not a list of shapes'),
    (_write(openai.SHAPES, '[[1'), 'params_shapes.json: damaged'),
    (_drop(openai_tokenizer.MERGES_FILE), 'not the other half'),
    (
      _edit(openai_tokenizer.ENCODER_FILE, lambda e: dict([*e.items()][:-1])),
      'token embeddings, but the vocabulary in',
    ),
  ],
)
def test_a_damaged_release_is_refused(model, tmp_path, damage, message):
  folder = tmp_path / 'model'
  shutil.copytree(model[0], folder)
  damage(folder)
  found = refused(from_openai, folder, tmp_path)
  assert str(folder) in found
  assert re.search(message, found), found


def test_no_pickle_is_executed(model, tmp_path):
  folder = tmp_path / 'model'
  shutil.copytree(model[0], folder)
  harm = np.array([released.Harm(tmp_path / 'harmed')], object)
  np.save(folder / 'params_1.npy', harm, allow_pickle=True)
  message = refused(from_openai, folder, tmp_path)
  assert 'params_1.npy: not an array of numbers' in message
  assert not (tmp_path / 'harmed').exists()
  np.load(folder / 'params_1.npy', allow_pickle=True)
  assert (tmp_path / 'harmed').exists()  # it would have been


BIAS = 'transformer.h.1.ln_1.bias'


def _with(name, value=0, dtype=np.float32, shape=(128,)):
  return lambda t: {**t, name: np.full(shape, value, dtype)}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda t: {k: v for k, v in t.items() if k != BIAS},
      '25 tensors, but config.json expects 26; missing: h.1.ln_1.bias',
    ),
    (_with('h.2.ln_1.bias'), 'expects 26; unknown: h.2.ln_1.bias'),
    (
      _with(BIAS, shape=9),
      'h.1.ln_1.bias is [9], but config.json expects [128]',
    ),
    (_with(BIAS, dtype=np.float64), 'bias is F64, expected float32, float16'),
    (_with(BIAS, np.inf), 'bias contains NaN or infinity'),
    (
      _with('lm_head.weight', shape=(9, 128)),
      'lm_head.weight differs from the token embedding',
    ),
    (
      {'model_type': 'gpt2'},
      "model_type is 'gpt2': input should be 'openai-gpt'",
    ),
    ({'afn': 'relu'}, "afn is 'relu': input should be 'gelu' or 'gelu_new'"),
    ({'n_layer': None}, 'n_layer is None: input should be a valid integer'),
    ({'n_layer': 3}, '26 tensors, but config.json expects 38'),
    ({'n_layer': 10**400}, '26 tensors, but config.json expects'),
    ({'n_head': 3}, 'n_embd 128 is not divisible by n_head 3'),
    (
      {'layer_norm_epsilon': 1e-6},
      'layer_norm_epsilon is 1e-06: expected 1e-05 as in GPT-1',
    ),
    ({'gpt1_jax': []}, 'config.json: gpt1_jax is []: input should be a'),
    ({'n_head': 0}, 'n_head is 0: input should be greater than 0'),
    ({'n_head': True}, 'n_head is True: input should be a valid integer'),
    ({'gpt1_jax': {'model': [], 'step': 1}}, 'gpt1_jax.model is []: input'),
  ],
)
def test_a_damaged_folder_is_refused(folder, tmp_path, change, message):
  """The change is made to the tensors, or to config.json."""
  changes = (lambda c: c.update(change), None)
  if callable(change):
    changes = (None, change)
  changed = rewrite(folder, tmp_path / 'hf', *changes)
  assert message in refused(from_huggingface, changed, tmp_path)


def test_missing_or_damaged_files_are_refused(folder, tmp_path, monkeypatch):
  hf = tmp_path / 'hf'
  shutil.copytree(folder, hf)
  monkeypatch.setitem(sys.modules, 'torch', None)
  for damage, message in (
    (_write('model.safetensors', 'x'), 'model.safetensors: damaged'),
    (_drop('model.safetensors'), 'no weights here (expected model.safetens'),
    (_write('pytorch_model.bin', ''), "pip install 'gpt1_jax[peers]'"),
    (
      _write('config.json', '[]'),
      'config.json: the content is []: input should',
    ),
    (_drop('config.json'), 'config.json: missing'),
  ):
    damage(hf)
    assert message in refused(from_huggingface, hf, tmp_path)


def test_the_command_refuses_mistakes(model, converted, tmp_path):
  full = tmp_path / 'full'
  full.mkdir()
  (full / 'file').touch()
  for source, output, option, message in (
    (tmp_path / 'none', 'x', None, 'no such folder'),
    (full, 'x', None, 'no model here'),
    (model[0], 'full', None, 'already exists'),
    (converted, 'x', '--n_head=2', '--n_head does not apply'),
    (model[0], 'x', '--checkpoint=3', "OpenAI's arrays"),
    (converted, 'x', '--checkpoint=3', 'no checkpoint 3'),
  ):
    args = [f'--input={source}', f'--output={tmp_path / output}']
    line = commands.fail('convert', *args, *([option] if option else []))
    assert message in line
  assert sorted(p.name for p in tmp_path.iterdir()) == ['full']
