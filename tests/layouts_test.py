"""The layout of parameters is the released one, and its inverse undoes it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from gpt1_jax.interop import layouts
from gpt1_jax.model import gpt
from tests.support import networks

L, D, H, T, V = 3, 12, 4, 5, 7
K = D // H


@pytest.fixture(scope='module')
def named():
  draw = np.random.default_rng(0)
  shapes = layouts.shapes(n_layer=L, n_embd=D, n_ctx=T, rows=V)
  return {k: draw.standard_normal(v, np.float32) for k, v in shapes.items()}


def test_there_and_back(named):
  tree = layouts.from_named(named, n_head=H)
  again = layouts.to_named(tree)
  assert list(again) == list(named)
  for name, array in named.items():
    np.testing.assert_array_equal(again[name], array)
    assert again[name].dtype == np.float32
  jax.tree.map(
    np.testing.assert_array_equal, layouts.from_named(again, n_head=H), tree
  )


def test_the_tree_is_that_of_the_model(named):
  shape = {'n_layer': L, 'n_head': H, 'n_embd': D, 'n_ctx': T}
  config = dataclasses.replace(
    networks.GPT_CONFIG, **shape, vocab_size=V - 3, n_special=3
  )
  tokens = np.zeros((1, T), np.int32)
  fresh = jax.eval_shape(
    lambda: gpt.GPT(config).init(jax.random.key(0), tokens, dropout_key=None)
  )
  want = jax.tree.map(lambda x: x.shape, nn.unbox(fresh['params']))
  tree = layouts.from_named(named, n_head=H)
  assert jax.tree.map(lambda x: x.shape, tree) == want


def test_queries_keys_values_side_by_side_heads_within(named):
  """C: train.py: split in three, then into heads of neighbouring columns."""
  tree = layouts.from_named(named, n_head=H)
  for layer in range(L):
    weight = named[f'h.{layer}.attn.c_attn.weight']
    bias = named[f'h.{layer}.attn.c_attn.bias']
    out = named[f'h.{layer}.attn.c_proj.weight']
    for which in range(3):
      for head in range(H):
        first = which * D + head * K
        columns = slice(first, first + K)
        c_attn = tree['h']['attn']['c_attn']
        kernel_DK = c_attn['kernel'][layer, :, which, head]
        np.testing.assert_array_equal(kernel_DK, weight[:, columns])
        bias_K = c_attn['bias'][layer, which, head]
        np.testing.assert_array_equal(bias_K, bias[columns])
    for head in range(H):
      np.testing.assert_array_equal(
        tree['h']['attn']['c_proj']['kernel'][layer, head],
        out[head * K : (head + 1) * K],
      )


def test_order_and_shapes_are_the_released_ones(shared_data):
  stored = json.loads((shared_data / 'vocab/params_shapes.json').read_text())
  shapes = layouts.shapes(n_layer=12, n_embd=768, n_ctx=512, rows=40_478)
  assert len(shapes) == len(stored) == 146
  for have, (name, want) in zip(stored, shapes.items(), strict=True):
    leading = [1] if len(want) == 2 and name.startswith('h.') else []
    assert have == [*leading, *want]
  assert sum(np.prod(shape) for shape in shapes.values()) == 116_534_784
