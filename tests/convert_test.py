"""Weights in and out of the files of other programs, bit for bit."""

import json
import math
import pathlib
import shutil
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain as pretrain_config
from gpt1_jax import storage
from gpt1_jax.corpus import openai_tokenizer, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import exchange, huggingface, layouts, model_card
from gpt1_jax.model import gpt
from gpt1_jax.reporting import runs, tables
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import checkpoint, run
from tests.support import commands

pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
safetensors = pytest.importorskip(
  'safetensors.numpy', reason="pip install 'gpt1_jax[openai]'"
)


def vocabulary(folder: pathlib.Path, rows: int) -> None:
  """A pair of files with single letters, and as many merges as it takes."""
  letters = [*'etaoinshrdlu', *(c + '</w>' for c in 'etaoinshrdlu\n')]
  pieces = ['<unk>', *letters]
  merges = []
  for a in 'etaoin':
    for b in 'shrdlu':
      if len(pieces) < rows:
        merges.append(f'{a} {b}')
        pieces.append(a + b)
  assert len(pieces) == rows
  encoder = {piece: i for i, piece in enumerate(pieces)}
  folder.mkdir(exist_ok=True)
  (folder / openai_tokenizer.ENCODER_FILE).write_text(json.dumps(encoder))
  lines = ['#version: 0.2', *merges, '']
  (folder / openai_tokenizer.MERGES_FILE).write_text('\n'.join(lines))


def arrays(shapes: list[list[int]]) -> list[np.ndarray]:
  draw = np.random.default_rng(1)
  return [draw.standard_normal(shape, np.float32) * 0.1 for shape in shapes]


def write_openai(
  folder: pathlib.Path, shapes: list[list[int]], values: list[np.ndarray]
) -> None:
  """The released layout: flat, end to end, ten files of even size."""
  folder.mkdir(exist_ok=True)
  (folder / 'params_shapes.json').write_text(json.dumps(shapes))
  flat = np.concatenate([value.ravel() for value in values])
  for i, part in enumerate(np.array_split(flat, 10)):
    np.save(folder / f'params_{i}.npy', part)


def small_shapes(T: int, V: int, D: int, L: int) -> list[list[int]]:
  block = [
    [1, D, 3 * D], [3 * D], [1, D, D], [D], [D], [D],
    [1, D, 4 * D], [4 * D], [1, 4 * D, D], [D], [D], [D],
  ]  # fmt: skip
  return [[T, D], [V, D], *(block * L)]


def check_params(params: dict, values: list[np.ndarray], heads: int) -> None:
  """A tree of ours against the released arrays, one by one."""
  tree, left = params['gpt'], list(values)
  D = values[0].shape[1]
  np.testing.assert_array_equal(tree['positions_embed'], left.pop(0))
  np.testing.assert_array_equal(tree['tokens_embed'], left.pop(0))
  h = tree['h']
  layer = 0
  while left:
    for leaf in (
      h['attn']['c_attn']['kernel'], h['attn']['c_attn']['bias'],
      h['attn']['c_proj']['kernel'], h['attn']['c_proj']['bias'],
      h['ln_1']['scale'], h['ln_1']['bias'],
      h['mlp']['c_fc']['kernel'], h['mlp']['c_fc']['bias'],
      h['mlp']['c_proj']['kernel'], h['mlp']['c_proj']['bias'],
      h['ln_2']['scale'], h['ln_2']['bias'],
    ):  # fmt: skip
      assert leaf.dtype == np.float32
      want = left.pop(0)
      np.testing.assert_array_equal(leaf[layer].ravel(), want.ravel())
    assert h['attn']['c_attn']['kernel'][layer].shape == (
      D, 3, heads, D // heads
    )  # fmt: skip
    layer += 1


def same_params(a, b) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def released(tmp_path_factory):
  """A small model in the released layout, vocabulary beside it."""
  folder = tmp_path_factory.mktemp('released') / 'model'
  vocabulary(folder, 40)
  shapes = small_shapes(T=16, V=40, D=128, L=2)
  write_openai(folder, shapes, arrays(shapes))
  return folder


@pytest.fixture(scope='module')
def converted(released, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'converted'
  commands.succeed('convert', f'--input={released}', f'--output={workdir}')
  return workdir


def test_released_layout_becomes_a_run(released, converted):
  params, meta, step = checkpoint.read(str(converted))
  shapes = small_shapes(T=16, V=40, D=128, L=2)
  check_params(params, arrays(shapes), heads=2)
  assert step == 0
  bpe = tokenization.load(converted)
  assert bpe.fingerprint == tokenization.load(released).fingerprint
  assert meta['tokenizer_fingerprint'] == bpe.fingerprint
  config = GPTConfig(**meta['model'])
  assert (config.n_layer, config.n_head, config.n_embd) == (2, 2, 128)
  assert (config.n_ctx, config.vocab_size, config.n_special) == (16, 40, 0)
  facts = run.load(str(converted))
  assert facts['command'] == 'convert'
  assert facts['parameters'] == sum(map(math.prod, shapes))
  assert not list(converted.parent.glob('*.incomplete'))


def test_what_no_file_says_is_of_the_openai_preset():
  preset = pretrain_config.get_config('openai').model.to_dict()
  released = {name: preset[name] for name in exchange.RELEASED}
  assert released == exchange.RELEASED
  shape = {'n_layer', 'n_head', 'n_embd', 'n_ctx'}
  assert exchange.RELEASED.keys() | shape == preset.keys()


def test_the_commands_take_a_converted_run(converted, tmp_path):
  out = commands.succeed(
    'generate', f'--workdir={converted}', '--prompt=Rat', '--num_tokens=5'
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
  assert 'trained elsewhere' in table.rows[1]


@pytest.mark.slow
def test_special_rows_are_drawn_when_fine_tuning_starts(converted, tmp_path):
  """N(0, 0.02), from the seed of that run; all else is as it was."""
  task = tmp_path / 'task'
  task.mkdir()
  for split in ('train', 'dev'):
    rows = [{'text': 'no tests', 'label': x} for x in ('bad', 'good') * 4]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (task / f'{split}.jsonl').write_text(lines)
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
    np.testing.assert_array_equal(
      tokens[:-3], pretrained['gpt']['tokens_embed']
    )
    body = dict(pretrained['gpt'])
    del body['tokens_embed']
    same_params(params['gpt'], body)
    for name in ('embedding_dropout', 'softmax_rows'):
      assert tuned['model'][name] == meta['model'][name]
  assert (specials[0] != specials[1]).all()
  assert (heads[0] != heads[1]).any()
  for rows in specials:  # 384 draws: the standard error of std is 0.0007
    assert abs(rows.std() - 0.02) < 0.003
    assert abs(rows.mean()) < 0.004


def test_the_small_release(shared_data, tmp_path):
  """A fixture of AllenNLP: no leading axes, and a vocabulary with holes."""
  with tarfile.open(shared_data / 'vocab/transformer_small.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  folder = tmp_path / 'model'
  with pytest.raises(UserError, match='how many heads share the 10'):
    exchange.to_run('openai', folder, tmp_path / 'no', None, None)
  exchange.to_run('openai', folder, tmp_path / 'run', None, 2)
  params, meta, _ = checkpoint.read(str(tmp_path / 'run'))
  shapes = json.loads((folder / 'params_shapes.json').read_text())
  flat = np.concatenate([np.load(folder / f'params_{i}.npy') for i in (0, 1)])
  values = []
  for shape in shapes:
    values.append(flat[: math.prod(shape)].reshape(shape))
    flat = flat[math.prod(shape) :]
  assert not flat.size
  check_params(params, values, heads=2)
  tokens = jnp.array([tokenization.load(tmp_path / 'run').encode('ee wow oo')])
  model = gpt.GPT(GPTConfig(**meta['model']))
  h_BTD, _ = model.apply({'params': params['gpt']}, tokens, dropout_key=None)
  assert jnp.isfinite(h_BTD).all()
  (tmp_path / 'hf').mkdir()
  exchange.to_huggingface(tmp_path / 'run', tmp_path / 'hf', None)
  assert not (tmp_path / 'hf' / 'tokenizer.json').exists()
  (tmp_path / 'back').mkdir()
  exchange.to_run('huggingface', tmp_path / 'hf', tmp_path / 'back', None, None)
  same_params(checkpoint.read(str(tmp_path / 'back'))[0], params)


@pytest.mark.slow
def test_the_full_release(shared_data, tmp_path):
  """116,534,784 numbers through ten files, a run and a folder, unchanged."""
  shapes = json.loads((shared_data / 'vocab/params_shapes.json').read_text())
  folder = tmp_path / 'model'
  values = arrays(shapes)
  write_openai(folder, shapes, values)
  for name in (openai_tokenizer.ENCODER_FILE, openai_tokenizer.MERGES_FILE):
    shutil.copyfile(shared_data / 'vocab' / name, folder / name)
  exchange.to_run('openai', folder, tmp_path / 'run', None, None)
  shutil.rmtree(folder)
  params, meta, _ = checkpoint.read(str(tmp_path / 'run'))
  check_params(params, values, heads=12)
  del params
  assert run.load(str(tmp_path / 'run'))['parameters'] == 116_534_784
  assert meta['model']['n_ctx'] == 512
  (tmp_path / 'hf').mkdir()
  exchange.to_huggingface(tmp_path / 'run', tmp_path / 'hf', None)
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


@pytest.fixture(scope='module')
def folder(converted, tmp_path_factory):
  out = tmp_path_factory.mktemp('hf') / 'folder'
  commands.succeed('convert', f'--input={converted}', f'--output={out}')
  return out


def test_a_run_becomes_a_folder_and_a_run_again(converted, folder, tmp_path):
  assert sorted(p.name for p in folder.iterdir()) == [
    'README.md', 'config.json', 'merges.txt', 'model.safetensors',
    'tokenizer.json', 'tokenizer_config.json', 'vocab.json',
  ]  # fmt: skip
  back = tmp_path / 'back'
  commands.succeed('convert', f'--input={folder}', f'--output={back}')
  params, meta, step = checkpoint.read(str(converted))
  again, meta_again, step_again = checkpoint.read(str(back))
  same_params(again, params)
  assert (meta_again, step_again) == (meta, step)
  for name in (openai_tokenizer.ENCODER_FILE, openai_tokenizer.MERGES_FILE):
    paths = [w / 'tokenizer' / name for w in (converted, back)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
  exchange.to_huggingface(back, tmp_path, None)
  for name in ('model.safetensors', 'config.json', 'tokenizer.json'):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_fine_tuned_run_keeps_specials_and_head(converted, tmp_path):
  params, meta, _ = checkpoint.read(str(converted))
  draw = np.random.default_rng(2)
  rows = draw.standard_normal((3, 128), np.float32)
  tokens = np.concatenate([params['gpt']['tokens_embed'], rows])
  params = {
    'gpt': {**params['gpt'], 'tokens_embed': tokens},
    'head': {
      'clf': {
        'kernel': draw.standard_normal((128, 2), np.float32),
        'bias': draw.standard_normal(2, np.float32),
      }
    },
  }
  meta['model'].update(n_special=3, softmax_rows='tokens', dtype='bfloat16')
  config = {
    'data': {'batch_size': 32},
    'optim': {'peak_lr': 6.25e-5, 'variant': 'paper'},
    'train': {'seed': 0},
  }
  workdir = tmp_path / 'tuned'
  run.start(str(workdir), 'finetune', config, meta)
  tokenization.load(converted).save(workdir / 'tokenizer')
  saved = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=True)
  saved.save(7, {'step': np.int32(7), 'params': params}, meta, {'best': 0.5})
  saved.close()
  scores = {
    'task': 'rte', 'metric': 'accuracy', 'split': 'dev', 'score': 0.56,
    'examples': 277, 'step': 7,
  }  # fmt: skip
  storage.write_json(workdir / 'scores.json', scores)
  (tmp_path / 'hf').mkdir()
  exchange.to_huggingface(workdir, tmp_path / 'hf', None)
  readme = (tmp_path / 'hf' / 'README.md').read_text()
  assert '| accuracy, dev set | 0.5600 |' in readme
  assert 'Rows 40, 41 and 42 are the start' in readme
  assert 'clf.kernel\n[128, 2]' in readme
  assert (
    json.loads((tmp_path / 'hf/config.json').read_text())['vocab_size'] == 43
  )
  exchange.to_run('huggingface', tmp_path / 'hf', tmp_path / 'back', None, None)
  again, meta_again, step = checkpoint.read(str(tmp_path / 'back'))
  same_params(again, params)
  assert (meta_again['model'], step) == (meta['model'], 7)


def rewrite(folder, out, change_config=None, change=None):
  """A copy of a Hugging Face folder with its config and tensors changed."""
  shutil.copytree(folder, out)
  file = out / 'model.safetensors'
  tensors = safetensors.load_file(file)
  config = json.loads((out / 'config.json').read_text())
  if change_config:
    change_config(config)
  if change:
    tensors = change(tensors) or tensors
  (out / 'config.json').write_text(json.dumps(config))
  safetensors.save_file(tensors, file, {'format': 'pt'})
  return out


def test_a_folder_as_older_versions_wrote_it(converted, folder, tmp_path):
  """No prefix, masks among the weights, the tied matrix twice, no field."""

  def older(tensors):
    out = {k.removeprefix('transformer.'): v for k, v in tensors.items()}
    for i in range(2):
      out[f'h.{i}.attn.bias'] = np.ones((1, 1, 16, 16), np.uint8)
    out['lm_head.weight'] = out['tokens_embed.weight'].copy()
    out['multiple_choice_head.summary.bias'] = np.zeros(1, np.float32)
    return out

  def config(c):
    del c[model_card.OURS]
    c['n_ctx'] = c.pop('n_positions')

  old = rewrite(folder, tmp_path / 'old', config, older)
  (old / 'vocab.json').unlink()  # tokenizer.json will do
  out = commands.succeed('convert', f'--input={old}', f'--output={tmp_path}/r')
  assert 'left out' in out
  assert 'multiple_choice_head.summary.bias' in out
  params, meta, _ = checkpoint.read(f'{tmp_path}/r')
  same_params(params, checkpoint.read(str(converted))[0])
  assert meta == checkpoint.read(str(converted))[1]


def refused(kind, source, tmp_path, n_head=None):
  with pytest.raises(UserError) as caught:
    exchange.to_run(kind, source, tmp_path / 'refused', None, n_head)
  assert not (tmp_path / 'refused' / 'checkpoints').exists()
  return str(caught.value)


def _drop(name):
  return lambda folder: (folder / name).unlink()


def _save(name, value, **options):
  return lambda folder: np.save(folder / name, value, **options)


def _cut(name):
  def damage(folder):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-9])

  return damage


def _shapes(change):
  def damage(folder):
    file = folder / 'params_shapes.json'
    shapes = json.loads(file.read_text())
    shapes = change(shapes) or shapes
    file.write_text(json.dumps(shapes))

  return damage


class Harm:
  """Pickled, it would make a file when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize(
  ('damage', 'messages'),
  [
    (_drop('params_shapes.json'), ['params_shapes.json: missing']),
    (_drop('params_3.npy'), ['params_3.npy: missing', 'up to params_9.npy']),
    (
      _drop('params_9.npy'),
      ['params_0.npy to params_8.npy', '403,712 expected', 'is params_9.npy'],
    ),
    (_cut('params_4.npy'), ['params_4.npy', 'cut short', 'float32 expected']),
    (
      _save('params_2.npy', np.zeros(7, np.float32)),
      ['403,712 expected by params_shapes.json', 'params_2.npy has 7,'],
    ),
    (
      _save('params_2.npy', np.zeros(40_371)),
      ['params_2.npy: float64, float32 expected'],
    ),
    (
      _save('params_2.npy', np.zeros((2, 3), np.float32)),
      ['params_2.npy: [2, 3], a flat array expected'],
    ),
    (
      _save('params_2.npy', np.full(40_371, np.nan, np.float32)),
      ['holds numbers that are not finite'],
    ),
    (
      _save('params_10.npy', np.zeros(40_371, np.float32)),
      ['params_0.npy to params_10.npy', 'is params_10.npy of another model?'],
    ),
    (_shapes(lambda s: s[:-1]), ['25 arrays, 2 and 12 a layer expected']),
    (
      _shapes(lambda s: s.__setitem__(5, [127])),
      ['array 5, h.0.attn.c_proj.bias, is [127], [128] expected'],
    ),
    (
      _shapes(lambda s: s.__setitem__(2, [128, 1, 384])),
      ['h.0.attn.c_attn.weight, is [128, 1, 384], [1, 128, 384] expected'],
    ),
    (
      _shapes(lambda s: s.__setitem__(1, [40])),
      ['the embedding of tokens is [40], [rows, n_embd] expected'],
    ),
    (_shapes(lambda s: {'a': 1}), ['params_shapes.json: not a list of shapes']),
    (
      lambda f: (f / 'params_shapes.json').write_text('[[1'),
      ['params_shapes.json: damaged'],
    ),
    (_drop(openai_tokenizer.MERGES_FILE), ['not the other half']),
    (
      lambda f: vocabulary(f, 39),
      ['40 rows of tokens, 39 expected by the vocabulary of'],
    ),
  ],
)  # fmt: skip
def test_a_damaged_release_is_refused(released, tmp_path, damage, messages):
  folder = tmp_path / 'model'
  shutil.copytree(released, folder)
  damage(folder)
  message = refused('openai', folder, tmp_path)
  assert str(folder) in message
  assert '\n' not in message
  for part in messages:
    assert part in message


def test_no_pickle_is_executed(released, tmp_path):
  folder = tmp_path / 'model'
  shutil.copytree(released, folder)
  harm = np.array([Harm(tmp_path / 'harmed')], object)
  np.save(folder / 'params_1.npy', harm, allow_pickle=True)
  message = refused('openai', folder, tmp_path)
  assert 'params_1.npy: not an array of numbers' in message
  assert not (tmp_path / 'harmed').exists()
  np.load(folder / 'params_1.npy', allow_pickle=True)
  assert (tmp_path / 'harmed').exists()  # it would have been


def _without(name):
  return lambda t: {k: v for k, v in t.items() if k != name}


def _with(name, value):
  return lambda t: {**t, name: value}


@pytest.mark.parametrize(
  ('change_config', 'change', 'messages'),
  [
    (
      None,
      _without('transformer.h.1.ln_1.bias'),
      ['25 tensors, 26 expected by config.json; missing: h.1.ln_1.bias'],
    ),
    (
      None,
      _with('h.2.ln_1.bias', np.zeros(128, np.float32)),
      ['27 tensors, 26 expected', 'unknown: h.2.ln_1.bias'],
    ),
    (
      None,
      _with('transformer.h.1.ln_1.bias', np.zeros(9, np.float32)),
      ['h.1.ln_1.bias is [9], [128] expected by config.json'],
    ),
    (
      None,
      _with('transformer.h.1.ln_1.bias', np.zeros(128, np.float16)),
      ['h.1.ln_1.bias is F16, float32 expected'],
    ),
    (
      None,
      _with('transformer.h.1.ln_1.bias', np.full(128, np.inf, np.float32)),
      ['h.1.ln_1.bias holds numbers that are not finite'],
    ),
    (
      None,
      _with('lm_head.weight', np.zeros((40, 128), np.float32)),
      ['lm_head.weight is not the token embedding'],
    ),
    (lambda c: c.update(model_type='gpt2'), None, ["'gpt2', 'openai-gpt'"]),
    (lambda c: c.update(afn='relu'), None, ["afn is 'relu', 'gelu' expected"]),
    (lambda c: c.pop('n_layer'), None, ['n_layer is None, a count expected']),
    (lambda c: c.update(n_layer=3), None, ['26 tensors, 38 expected']),
    (
      lambda c: c.update(n_head=3),
      None,
      ['model.n_embd 128 does not divide into n_head 3 heads'],
    ),
    (
      lambda c: c.update(layer_norm_epsilon=1e-6),
      None,
      ['layer_norm_epsilon is 1e-06, 1e-05 expected'],
    ),
  ],
)  # fmt: skip
def test_a_damaged_folder_is_refused(
  folder, tmp_path, change_config, change, messages
):
  changed = rewrite(folder, tmp_path / 'hf', change_config, change)
  message = refused('huggingface', changed, tmp_path)
  assert '\n' not in message
  for part in messages:
    assert part in message


def test_files_that_are_missing_or_damaged(folder, tmp_path, monkeypatch):
  hf = tmp_path / 'hf'
  shutil.copytree(folder, hf)
  (hf / 'model.safetensors').write_bytes(b'no tensors')
  assert 'model.safetensors: damaged' in refused('huggingface', hf, tmp_path)
  (hf / 'model.safetensors').unlink()
  message = refused('huggingface', hf, tmp_path)
  assert 'no weights here (model.safetensors or pytorch_model.bin' in message
  (hf / 'pytorch_model.bin').write_bytes(b'')
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  message = refused('huggingface', hf, tmp_path)
  assert "pip install 'gpt1_jax[peers]'" in message
  (hf / 'config.json').unlink()
  assert 'config.json: missing' in refused('huggingface', hf, tmp_path)


def test_what_the_command_refuses(released, converted, folder, tmp_path):
  full = tmp_path / 'full'
  full.mkdir()
  (full / 'file').touch()
  for args, part in (
    ((tmp_path / 'none', tmp_path / 'x'), 'no such folder'),
    ((full, tmp_path / 'x'), 'nothing to convert here'),
    ((released, full), 'exists already'),
    ((converted, tmp_path / 'x', '--n_head=2'), '--n_head does not apply'),
    ((released, tmp_path / 'x', '--checkpoint=3'), "OpenAI's arrays"),
    ((converted, tmp_path / 'x', '--checkpoint=3'), 'no checkpoint 3'),
  ):
    source, output, *more = args
    line = commands.fail(
      'convert', f'--input={source}', f'--output={output}', *more
    )
    assert part in line
  assert sorted(p.name for p in tmp_path.iterdir()) == ['full']


def test_help_reads_well():
  done = commands.run('convert', '--help')
  for part in ('params_shapes.json', 'OpenAIGPTLMHeadModel', '--n_head'):
    assert part in done.stdout
