"""Writes and reads Hugging Face folders bit for bit; refuses damaged ones."""

import dataclasses
import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax import storage
from gpt1_jax.corpus import openai_tokenizer, tokenization
from gpt1_jax.interop import conversion, huggingface
from gpt1_jax.train import checkpoint
from tests.support import commands, released
from tests.support.conversions import (
  drop,
  from_huggingface,
  from_openai,
  refused,
  write,
)

pytest.importorskip('spacy', reason="pip install 'gpt1_jax[openai]'")
safetensors = pytest.importorskip(
  'safetensors.numpy', reason="pip install 'gpt1_jax[openai]'"
)


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
  top = tmp_path_factory.mktemp('runs')
  released.write(top / 'model')
  from_openai(top / 'model', top / 'converted')
  return top / 'converted'


@pytest.fixture(scope='module')
def folder(converted, tmp_path_factory):
  """The Hugging Face folder of the converted run."""
  out = tmp_path_factory.mktemp('hf') / 'folder'
  commands.succeed('convert', f'--input={converted}', f'--output={out}')
  return out


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
    'examples': 277, 'step': 7, 'seed': 0,
    'splits': {'dev': {'accuracy': 0.56}}, 'counts': {'dev': {'examples': 277}},
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
    (write('model.safetensors', 'x'), 'model.safetensors: damaged'),
    (drop('model.safetensors'), 'no weights here (expected model.safetens'),
    (write('pytorch_model.bin', ''), "pip install 'gpt1_jax[peers]'"),
    (
      write('config.json', '[]'),
      'config.json: the content is []: input should',
    ),
    (drop('config.json'), 'config.json: missing'),
  ):
    damage(hf)
    assert message in refused(from_huggingface, hf, tmp_path)
