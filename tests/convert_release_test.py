"""Reads OpenAI's arrays bit for bit, and refuses damaged ones."""

import json
import math
import re
import shutil
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.corpus import openai_tokenizer, tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion, huggingface, layouts, openai
from gpt1_jax.model import gpt
from gpt1_jax.train import run
from tests.support import released
from tests.support.conversions import (
  drop,
  edit,
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
def model(tmp_path_factory):
  """Writes a folder in the released layout."""
  folder = tmp_path_factory.mktemp('released') / 'model'
  released.write(folder)
  return folder


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


def _set_shape(i, shape):
  return edit(openai.SHAPES, lambda s: [*s[:i], shape, *s[i + 1 :]])


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (drop(openai.SHAPES), 'params_shapes.json: missing'),
    (drop('params_3.npy'), 'params_3.npy: missing.* up to params_9.npy'),
    (
      drop('params_9.npy'),
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
      edit(openai.SHAPES, lambda s: s[:-1]),
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
    (write(openai.SHAPES, '{"a": 1}'), 'json: not a list of shapes'),
    (write(openai.SHAPES, '[[1'), 'params_shapes.json: damaged'),
    (drop(openai_tokenizer.MERGES_FILE), 'not the other half'),
    (
      edit(openai_tokenizer.ENCODER_FILE, lambda e: dict([*e.items()][:-1])),
      'token embeddings, but the vocabulary in',
    ),
  ],
)
def test_a_damaged_release_is_refused(model, tmp_path, damage, message):
  folder = tmp_path / 'model'
  shutil.copytree(model, folder)
  damage(folder)
  found = refused(from_openai, folder, tmp_path)
  assert str(folder) in found
  assert re.search(message, found), found


def test_no_pickle_is_executed(model, tmp_path):
  folder = tmp_path / 'model'
  shutil.copytree(model, folder)
  harm = np.array([released.Harm(tmp_path / 'harmed')], object)
  np.save(folder / 'params_1.npy', harm, allow_pickle=True)
  message = refused(from_openai, folder, tmp_path)
  assert 'params_1.npy: not an array of numbers' in message
  assert not (tmp_path / 'harmed').exists()
  np.load(folder / 'params_1.npy', allow_pickle=True)
  assert (tmp_path / 'harmed').exists()  # it would have been
