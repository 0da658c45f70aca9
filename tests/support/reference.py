"""Implements the equations of docs/reference.md §1 to §3 in plain numpy.

Tests compare the package with it: float64, no jax, no batching tricks, no
chunks. Written from the equations, not from the package; only the layout of
the parameter tree is the package's (blocks stacked on a leading axis).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
# (site, layer or None, values) → values, dropped. Sites: 'embedding',
# 'attention', 'residual_attention', 'residual_mlp', 'output' (of the LSTM),
# 'head'.
Drop = Callable[[str, int | None, Array], Array]


def keep(site: str, layer: int | None, x: Array) -> Array:
  """Drops nothing."""
  del site, layer
  return x


def float64(tree: Any) -> Any:
  """Converts a nested dict of arrays to float64."""
  if isinstance(tree, dict):
    return {name: float64(value) for name, value in tree.items()}
  return np.asarray(tree, np.float64)


def flat(tree: Any, prefix: str = '') -> dict[str, Array]:
  """Flattens a nested dict to {'h/attn/c_attn/kernel': array}."""
  if not isinstance(tree, dict):
    return {prefix[:-1]: np.asarray(tree)}
  parts = (flat(value, f'{prefix}{name}/') for name, value in tree.items())
  return {name: x for part in parts for name, x in part.items()}


def softmax(x: Array) -> Array:
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x: Array) -> Array:
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def gelu(x: Array) -> Array:
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(p: dict, x: Array) -> Array:
  mean = x.mean(axis=-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-5) * p['scale'] + p['bias']


def attention(p: dict, x_BTD: Array, drop, layer: int) -> Array:
  B, T, D = x_BTD.shape
  _, _, H, K = p['c_attn']['kernel'].shape
  qkv = x_BTD @ p['c_attn']['kernel'].reshape(D, 3 * D)
  qkv = qkv + p['c_attn']['bias'].reshape(3 * D)
  q, k, v = qkv.reshape(B, T, 3, H, K).transpose(2, 0, 3, 1, 4)
  scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(K)
  before = np.tril(np.ones((T, T)))
  scores = scores * before - 1e9 * (1 - before)
  probs = drop('attention', layer, softmax(scores))
  a_BTD = (probs @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
  return a_BTD @ p['c_proj']['kernel'].reshape(D, D) + p['c_proj']['bias']


def mlp(p: dict, x_BTD: Array) -> Array:
  a_BTF = gelu(x_BTD @ p['c_fc']['kernel'] + p['c_fc']['bias'])
  return a_BTF @ p['c_proj']['kernel'] + p['c_proj']['bias']


def block(p: dict, x_BTD: Array, drop, layer: int) -> Array:
  a_BTD = attention(p['attn'], x_BTD, drop, layer)
  a_BTD = drop('residual_attention', layer, a_BTD)
  n_BTD = layer_norm(p['ln_1'], x_BTD + a_BTD)
  m_BTD = drop('residual_mlp', layer, mlp(p['mlp'], n_BTD))
  return layer_norm(p['ln_2'], n_BTD + m_BTD)


def lstm(p: dict, tokens_BT: Array, drop: Drop = keep) -> tuple[Array, Array]:
  """Returns the projected states, gate by gate, and the softmax's rows."""

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  x_BTD = drop('embedding', None, p['tokens_embed'][tokens_BT])
  B, T, _ = x_BTD.shape
  memory_BU = h_BU = np.zeros((B, len(p['c_proj']['kernel'])))
  states = []
  for t in range(T):
    gate = {
      name: x_BTD[:, t] @ p['lstm'][f'i{name}']['kernel']
      + h_BU @ p['lstm'][f'h{name}']['kernel']
      + p['lstm'][f'h{name}']['bias']
      for name in 'ifgo'
    }
    memory_BU = sigmoid(gate['f']) * memory_BU
    memory_BU = memory_BU + sigmoid(gate['i']) * np.tanh(gate['g'])
    h_BU = sigmoid(gate['o']) * np.tanh(memory_BU)
    states.append(h_BU)
  out_BTU = drop('output', None, np.stack(states, axis=1))
  out_BTD = out_BTU @ p['c_proj']['kernel'] + p['c_proj']['bias']
  return out_BTD, p['tokens_embed']


def forward(
  gpt: dict,
  tokens_BT: Array,
  embedding_dropout: str = 'sum',
  softmax_rows: str = 'tokens',
  drop: Drop = keep,
) -> tuple[Array, Array]:
  """Returns the states of the last block, and the rows of the softmax."""
  tokens, positions = gpt['tokens_embed'], gpt['positions_embed']
  V = len(tokens)
  if embedding_dropout == 'matrix':
    matrix = drop('embedding', None, np.concatenate([tokens, positions]))
    tokens, positions = matrix[:V], matrix[V:]
  h_BTD = tokens[tokens_BT] + positions[np.arange(tokens_BT.shape[1])]
  if embedding_dropout == 'sum':
    h_BTD = drop('embedding', None, h_BTD)
  for layer in range(len(gpt['h']['ln_1']['bias'])):
    h_BTD = block(_layer(gpt['h'], layer), h_BTD, drop, layer)
  if softmax_rows == 'all':
    return h_BTD, np.concatenate([tokens, positions])
  return h_BTD, tokens


def _layer(tree: Any, layer: int) -> Any:
  if not isinstance(tree, dict):
    return tree[layer]
  return {name: _layer(value, layer) for name, value in tree.items()}


def lm_nll(h_BTD: Array, rows_VD: Array, tokens_BT: Array) -> Array:
  """Returns -log p of each token but the first, [B, T - 1]."""
  log_probs = log_softmax(h_BTD[:, :-1] @ rows_VD.T)
  return -np.take_along_axis(log_probs, tokens_BT[:, 1:, None], axis=2)[..., 0]


def lm_loss(nll_BT: Array, weights_BT: Array, reduction: str) -> float:
  """Averages over the tokens, or over each sequence and then over all."""
  weights = weights_BT[:, 1:]
  if reduction == 'tokens':
    return (nll_BT * weights).sum() / weights.sum()
  return ((nll_BT * weights).sum(axis=1) / weights.sum(axis=1)).mean()


def head(
  p: dict, h_BCTD: Array, extract_BC: Array, kind: str, drop=keep
) -> Array:
  """Returns [B, classes or choices] from the states at the extract tokens."""
  B, C, _, D = h_BCTD.shape
  mask_B1D = drop('head', None, np.ones((B, 1, D)))
  example_B1, choice_C = np.arange(B)[:, None], np.arange(C)
  h_BCD = h_BCTD[example_B1, choice_C, extract_BC] * mask_B1D
  if kind != 'choice':
    h_BCD = h_BCD.sum(axis=1, keepdims=True)
  return (h_BCD @ p['clf']['kernel'] + p['clf']['bias']).reshape(B, -1)


def task_loss(outputs_BY: Array, label_B: Array) -> Array:
  """Returns the cross-entropy, or the squared error of a value, [B]."""
  if np.issubdtype(label_B.dtype, np.floating):
    return (outputs_BY[:, 0] - label_B) ** 2
  return -log_softmax(outputs_BY)[np.arange(len(label_B)), label_B]


def finetune_loss(
  params: dict,
  batch: dict[str, Array],
  kind: str,
  lm_coef: float,
  reduction: str,
  embedding_dropout: str = 'sum',
  softmax_rows: str = 'tokens',
  drop: Drop = keep,
) -> float:
  """Returns the mean of task loss + lm_coef * LM loss; skips weight 0."""
  real = batch['example_weight'] > 0
  B, C, T = batch['tokens'].shape
  tokens_BT = batch['tokens'].reshape(B * C, T)
  h_BTD, rows_VD = forward(
    params['gpt'], tokens_BT, embedding_dropout, softmax_rows, drop
  )
  h_BCTD = h_BTD.reshape(B, C, T, -1)
  outputs = head(params['head'], h_BCTD, batch['extract'], kind, drop)
  task = task_loss(outputs, batch['label'])[real].mean()
  nll = lm_nll(h_BTD, rows_VD, tokens_BT).reshape(B, C, T - 1)[real]
  weights = batch['lm_weights'][real]
  lm = lm_loss(nll.reshape(-1, T - 1), weights.reshape(-1, T), reduction)
  return task + lm_coef * lm


def learning_rate(
  t: int,
  *,
  variant: str,
  schedule: str,
  peak_lr: float,
  warmup: float,
  num_steps: int,
) -> float:
  """Returns the rate of update t, the first being 0; `warmup` in updates."""

  def decay(x):
    return 1 - x if schedule == 'linear' else 0.5 * (1 + np.cos(np.pi * x))

  if variant == 'paper':
    t = t + 1
    if t <= warmup:
      return peak_lr * t / warmup
    return peak_lr * decay((t - warmup) / (num_steps - warmup))
  x, w = t / num_steps, warmup / num_steps
  if schedule == 'linear':
    return peak_lr * (x / w if x <= w else 1) * decay(x)
  return peak_lr * (x / w if x <= w else decay(x))


def clip(grads: dict, norm: float) -> dict:
  """Scales gradients down to the global norm."""
  total = np.sqrt(sum((g**2).sum() for g in grads.values()))
  return {name: g * min(1.0, norm / total) for name, g in grads.items()}


def update(
  t: int,
  params: dict,
  grads: dict,
  m: dict,
  v: dict,
  *,
  variant: str,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  clip_norm: float,
  corrections: tuple[float, float] | None = None,
  **schedule: Any,
) -> None:
  """Updates flat dicts in place.

  Args:
    t: updates applied before this one.
    params, grads, m, v: float64, by name.
    variant, b1, b2, eps, weight_decay, clip_norm: see config.optim.
    corrections: 1 - b1^(t+1) and 1 - b2^(t+1); None computes them in float64.
    **schedule: arguments of `learning_rate`.
  """
  lr = learning_rate(t, variant=variant, **schedule)
  c1, c2 = corrections or (1 - b1 ** (t + 1), 1 - b2 ** (t + 1))
  for name, g in clip(grads, clip_norm).items():
    p = params[name]
    m[name] = b1 * m[name] + (1 - b1) * g
    v[name] = b2 * v[name] + (1 - b2) * g * g
    l2 = weight_decay * p if is_weight(name) else 0.0
    if variant == 'paper':
      m_hat, v_hat = m[name] / c1, v[name] / c2
      params[name] = p - lr * (m_hat / (np.sqrt(v_hat) + eps) + l2)
    else:
      lr_t = lr * np.sqrt(c2) / c1
      params[name] = p - lr_t * (m[name] / (np.sqrt(v[name]) + eps) + l2)


def is_weight(name: str) -> bool:
  """Returns True for tensors of two or more axes in the released layout."""
  return name.endswith(('kernel', 'tokens_embed', 'positions_embed'))
