"""Converts weights of `transformers`' OpenAIGPT classes to our tree.

Maps names and shapes; needs neither torch nor transformers.
"""

import numpy as np

from tests.support import reference

BLOCK = {
  'attn/c_attn/kernel': 'attn.c_attn.weight',
  'attn/c_attn/bias': 'attn.c_attn.bias',
  'attn/c_proj/kernel': 'attn.c_proj.weight',
  'attn/c_proj/bias': 'attn.c_proj.bias',
  'ln_1/scale': 'ln_1.weight',
  'ln_1/bias': 'ln_1.bias',
  'mlp/c_fc/kernel': 'mlp.c_fc.weight',
  'mlp/c_fc/bias': 'mlp.c_fc.bias',
  'mlp/c_proj/kernel': 'mlp.c_proj.weight',
  'mlp/c_proj/bias': 'mlp.c_proj.bias',
  'ln_2/scale': 'ln_2.weight',
  'ln_2/bias': 'ln_2.bias',
}


def to_params(named: dict[str, np.ndarray], n_head: int) -> dict:
  """Converts named arrays, weights or gradients, to {'gpt': ..., 'head': ...}.

  The head is OpenAIGPTDoubleHeadsModel's, if there is one.
  """
  D = named['transformer.tokens_embed.weight'].shape[1]
  K = D // n_head
  shapes = {
    'attn/c_attn/kernel': (D, 3, n_head, K),
    'attn/c_attn/bias': (3, n_head, K),
    'attn/c_proj/kernel': (n_head, K, D),
  }
  n_layer = sum(name.endswith('.attn.c_attn.bias') for name in named)
  h: dict = {}
  for ours, theirs in BLOCK.items():
    stacked = [named[f'transformer.h.{i}.{theirs}'] for i in range(n_layer)]
    if ours in shapes:
      stacked = [x.reshape(shapes[ours]) for x in stacked]
    *path, leaf = ours.split('/')
    node = h
    for name in path:
      node = node.setdefault(name, {})
    node[leaf] = np.stack(stacked)
  names = ('tokens_embed', 'positions_embed')
  gpt = {name: named[f'transformer.{name}.weight'] for name in names}
  params: dict = {'gpt': {**gpt, 'h': h}}
  head = 'multiple_choice_head.summary.'
  if head + 'weight' in named:  # torch's Linear holds it transposed
    kernel, bias = named[head + 'weight'].T, named[head + 'bias']
    params['head'] = {'clf': {'kernel': kernel, 'bias': bias}}
  return params


def to_named(params: dict) -> dict[str, np.ndarray]:
  """Flattens a tree to one array for each tensor of the released layout."""
  out = {}
  for part, tree in params.items():
    for name, x in reference.flat(tree).items():
      if name.startswith('h/'):
        for layer, y in enumerate(x):
          out[f'{part}/h{layer}/{name[2:]}'] = y
      else:
        out[f'{part}/{name}'] = x
  return out
