"""Small models in the released layout, and runs of random weights."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

import gpt1_jax
from gpt1_jax.interop import layouts, openai
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import checkpoint, run
from tests.support import vocabulary

# Of the model that `write` makes; the vocabulary gives the number of rows.
N_CTX, N_EMBD, N_LAYER = 16, 128, 2
SMALL = {'n_layer': 3, 'n_head': 4, 'n_embd': 64, 'n_ctx': 48}


class Harm:
  """Creates a file when it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def shapes(T: int, V: int, D: int, L: int) -> list[list[int]]:
  """Returns params_shapes.json, written out by hand."""
  block = [
    [1, D, 3 * D], [3 * D], [1, D, D], [D], [D], [D],
    [1, D, 4 * D], [4 * D], [1, 4 * D, D], [D], [D], [D],
  ]  # fmt: skip
  return [[T, D], [V, D], *(block * L)]


def arrays(all_shapes: list[list[int]]) -> list[np.ndarray]:
  """Draws an array of each shape; the same ones every time."""
  draw = np.random.default_rng(1)
  return [draw.standard_normal(shape, np.float32) * 0.1 for shape in all_shapes]


def write_arrays(
  folder: pathlib.Path, all_shapes: list[list[int]], values: list[np.ndarray]
) -> None:
  """Writes the released layout: flat, end to end, ten files of equal size."""
  folder.mkdir(exist_ok=True)
  (folder / openai.SHAPES).write_text(json.dumps(all_shapes))
  flat = np.concatenate([value.ravel() for value in values])
  for i, part in enumerate(np.array_split(flat, 10)):
    np.save(folder / f'params_{i}.npy', part)


def write(folder: pathlib.Path) -> list[np.ndarray]:
  """Writes a small model with its vocabulary; returns the arrays."""
  vocabulary.write_openai(folder)
  all_shapes = shapes(N_CTX, rows(folder), N_EMBD, N_LAYER)
  values = arrays(all_shapes)
  write_arrays(folder, all_shapes, values)
  return values


def rows(folder: pathlib.Path) -> int:
  """Returns the number of rows of the vocabulary in a folder."""
  (file,) = folder.glob('encoder_bpe_*.json')
  return len(json.loads(file.read_text()))


def assert_params(params: Any, values: list[np.ndarray], n_head: int) -> None:
  """Compares a tree of ours with the released arrays, one by one."""
  tree, left = params['gpt'], list(values)
  D = values[0].shape[1]
  np.testing.assert_array_equal(tree['positions_embed'], left.pop(0))
  np.testing.assert_array_equal(tree['tokens_embed'], left.pop(0))
  h = tree['h']
  kernel = h['attn']['c_attn']['kernel']
  for layer in range(len(kernel)):
    for leaf in (
      kernel, h['attn']['c_attn']['bias'],
      h['attn']['c_proj']['kernel'], h['attn']['c_proj']['bias'],
      h['ln_1']['scale'], h['ln_1']['bias'],
      h['mlp']['c_fc']['kernel'], h['mlp']['c_fc']['bias'],
      h['mlp']['c_proj']['kernel'], h['mlp']['c_proj']['bias'],
      h['ln_2']['scale'], h['ln_2']['bias'],
    ):  # fmt: skip
      assert leaf.dtype == np.float32
      want = left.pop(0)
      np.testing.assert_array_equal(leaf[layer].ravel(), want.ravel())
    assert kernel[layer].shape == (D, 3, n_head, D // n_head)
  assert not left


def assert_same(a: Any, b: Any) -> None:
  """Compares two trees of arrays bit for bit."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def save_run(
  workdir: pathlib.Path,
  command: str,
  tokenizer: Any,
  found: checkpoint.Checkpoint,
) -> None:
  """Writes a run with one checkpoint, as `pretrain` or `finetune` does."""
  config = {
    'init_from': 'none',
    'data': {'path': 'books', 'batch_size': 32},
    'optim': {'peak_lr': 1e-3, 'variant': 'paper'},
    'train': {'seed': 0, 'seeds': 1, 'num_epochs': 1.0, 'num_steps': 0},
    # Of fine-tuning alone.
    'task': 'rte',
    'head': {'lm_coef': 0.5},
    'transfer': {'layers': -1},
  }
  counts = {'parameters': 1, 'num_steps': found.step}
  run.start(str(workdir), command, config, found.meta.as_json() | counts)
  tokenizer.save(workdir / 'tokenizer')
  saved = checkpoint.Checkpoints(str(workdir), keep=1, keep_best=False)
  state = {'step': np.int32(found.step), 'params': found.params}
  saved.save(found.step, state, found.meta)
  saved.close()


def legible_run(folder: pathlib.Path, text: str) -> gpt1_jax.Run:
  """Loads a new run of `text`, with weights so large that tokens matter."""
  bpe = vocabulary.train_bpe([text.lower()] * 3, 40)
  new_run(folder, bpe, std=0.2, softmax_rows='tokens', **SMALL)
  return gpt1_jax.load(folder)


def new_run(
  workdir: pathlib.Path,
  tokenizer: Any,
  *,
  std: float,
  n_special: int = 0,
  **shape: Any,
) -> None:
  """Writes a run of random weights."""
  config = GPTConfig(
    vocab_size=tokenizer.vocab_size,
    n_special=n_special,
    **{**openai.RELEASED, 'embedding_dropout': 'sum', **shape},
  )
  draw = np.random.default_rng(0)
  named = {
    name: draw.standard_normal(size, np.float32) * np.float32(std)
    for name, size in layouts.shapes(
      n_layer=config.n_layer,
      n_embd=config.n_embd,
      n_ctx=config.n_ctx,
      rows=config.token_rows,
    ).items()
  }
  for name in named:
    if name.endswith(('ln_1.weight', 'ln_2.weight')):
      named[name] += 1
  params = {'gpt': layouts.from_named(named, n_head=config.n_head)}
  meta = checkpoint.CheckpointMeta(config, tokenizer.fingerprint)
  found = checkpoint.Checkpoint(params, meta, 3)
  save_run(workdir, 'pretrain', tokenizer, found)
