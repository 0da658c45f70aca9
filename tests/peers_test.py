"""Compares numbers with `transformers`' OpenAIGPT classes and with PyTorch.

Goldens (a small model, made by tests/goldens/make.py) hold in every run of the
suite; with the `peers` extra the same is computed anew at the full shape, and
60 updates are compared. Bounds, in float32: logits to 2e-5 absolute; each
gradient to 1e-5 relative, ||ours - theirs|| / ||theirs|| of each tensor of the
released layout (blocks apart; queries, keys and values of a block together: the
gradient of a key's bias is zero except for rounding).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.corpus import shards, windows
from gpt1_jax.model import gpt, heads
from gpt1_jax.train import pretraining, sharding, step as step_lib
from tests.goldens import make
from tests.support import commands, compiled_steps, networks, peers, reference
from tests.support.meshes import make_mesh

NEEDED = "needs the peers extra: pip install -e '.[test,peers]'"
FULL = {'n_layer': 12, 'n_head': 12, 'n_embd': 768, 'n_positions': 512}


@functools.cache
def goldens():
  with np.load(make.OUTPUT) as file:
    return make.SHAPE, dict(file)


def torch_and_transformers():
  """Imports the peers, or skips the test."""
  names = ('torch', 'transformers')
  return [pytest.importorskip(name, reason=NEEDED) for name in names]


@functools.cache
def full():
  torch_and_transformers()
  return FULL, make.make(
    FULL, rows=40_478, batch=1, choices=2, length=128, std=0.02
  )


BOTH = pytest.mark.parametrize(
  'run',
  [goldens, pytest.param(full, marks=[pytest.mark.peers, pytest.mark.slow])],
)


def ours(run):
  """Returns the model, its weights, and what the peer computed."""
  shape, arrays = run()
  config = dataclasses.replace(
    networks.GPT_CONFIG,
    n_ctx=shape['n_positions'],
    vocab_size=len(arrays['weights/transformer.tokens_embed.weight']),
    **{key: shape[key] for key in ('n_layer', 'n_head', 'n_embd')},
  )
  params = peers.to_params(part(arrays, 'weights/'), config.n_head)
  return gpt.GPT(config), jax.tree.map(jnp.asarray, params), arrays


def part(arrays, prefix):
  n = len(prefix)
  return {name[n:]: x for name, x in arrays.items() if name.startswith(prefix)}


def assert_gradients(grads, arrays, prefix, n_head):
  expected = peers.to_named(peers.to_params(part(arrays, prefix), n_head))
  got = peers.to_named(jax.device_get(grads))
  assert got.keys() == expected.keys()
  for tree in (got, expected):  # the softmax over choices takes no bias
    bias = tree.pop('head/clf/bias', 0.0)
    assert np.abs(bias).max() < 1e-6
  for name, x in expected.items():
    error = np.linalg.norm(got[name] - x) / np.linalg.norm(x)
    assert error < 1e-5, (name, error)


@pytest.mark.peers
def test_the_script_reproduces_the_goldens():
  torch_and_transformers()
  _, arrays = goldens()
  made = make.make(make.SHAPE, **make.SIZES)
  assert made.keys() == arrays.keys()
  for name, x in made.items():
    np.testing.assert_allclose(arrays[name], x, rtol=0, atol=2e-6, err_msg=name)


@BOTH
def test_lm_head_model(run):
  model, params, arrays = ours(run)
  params, tokens = {'gpt': params['gpt']}, jnp.asarray(arrays['lm/tokens'])
  batch = {'tokens': tokens, 'lm_weights': jnp.ones(tokens.shape)}

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def mean_loss(params):
    out = model.apply({'params': params['gpt']}, tokens, dropout_key=None)
    loss, weight, _ = step_lib.pretrain_loss(model)(params, batch, None, None)
    return loss / weight, gpt.logits(*out)

  (loss, logits), grads = mean_loss(params)
  np.testing.assert_allclose(logits, arrays['lm/logits'], rtol=0, atol=2e-5)
  assert float(loss) == pytest.approx(float(arrays['lm/loss']), rel=1e-6)
  assert_gradients(grads, arrays, 'lm/grad/', model.config.n_head)


@BOTH
def test_double_heads_model(run):
  """Adds task and LM loss; the LM's is a mean over tokens there, too."""
  model, params, arrays = ours(run)
  head = heads.Head('choice', 1, 0.0)
  names = ('tokens', 'lm_weights', 'extract', 'label')
  batch = {name: jnp.asarray(arrays[f'choice/{name}']) for name in names}
  B = len(batch['label'])
  targets = batch['lm_weights'][..., 1:].sum() / B
  batch |= {'example_weight': jnp.ones(B)}
  batch |= {'mean_targets': jnp.full(B, targets)}
  loss_fn = step_lib.finetune_loss(model, head, 0.5, 'tokens')

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def mean_loss(params):
    example_ids_B = jnp.arange(B, dtype=jnp.uint32)
    loss, weight, sums = loss_fn(params, batch, None, example_ids_B)
    return loss / weight, sums

  (loss, sums), grads = mean_loss(params)
  np.testing.assert_allclose(
    sums['outputs'], arrays['choice/outputs'], rtol=0, atol=2e-5
  )
  for name, got in (
    ('loss', loss),
    ('task_loss', sums['task_loss'] / B),
    ('lm_loss', sums['lm_loss'] / B),
  ):
    expected = float(arrays[f'choice/{name}'])
    assert float(got) == pytest.approx(expected, rel=1e-6), name
  assert_gradients(grads, arrays, 'choice/grad/', model.config.n_head)


@pytest.mark.peers
@pytest.mark.slow
def test_the_full_shape_is_the_released_one():
  model, params, arrays = ours(full)
  count = sum(x.size for x in jax.tree.leaves(params['gpt']))
  assert count == gpt.num_parameters(model.config) == 116_534_784
  assert arrays['lm/logits'].shape == (1, 512, 40_478)


UPDATES, PEAK, WARMUP = 60, 2e-3, 10


# Dropout is off, as no two libraries draw the same masks.
SIZES = {'n_layer': 3, 'n_head': 4, 'n_embd': 64}
RATES = {'embd_pdrop': 0.0, 'attn_pdrop': 0.0, 'resid_pdrop': 0.0}
MODEL = {**SIZES, **RATES, 'n_ctx': 64, 'dtype': 'float32'}


@pytest.mark.peers
@pytest.mark.slow
def test_sixty_updates_on_real_text(tmp_path):
  """Compares model, loss, clipping, AdamW, decay and schedule.

  The losses agree to 1e-5 relative all along, and so do the final weights.
  """
  torch, transformers = torch_and_transformers()
  path = tmp_path / 'shards'
  flags = ('--input=builtin:python-reference', '--merges=500', '--workers=1')
  commands.succeed('prepare', f'--output={path}', *flags)
  vocab_size = shards.read_meta(path)['tokenizer']['vocab_size']
  chosen = compiled_steps.preset(
    'mini',
    **{f'model.{key}': value for key, value in MODEL.items()},
    **{'optim.peak_lr': PEAK, 'optim.warmup': float(WARMUP)},
    **{'data.path': str(path), 'data.batch_size': 8},
  )
  config = pretraining.model_config(chosen, vocab_size)
  torch.manual_seed(0)
  theirs = transformers.OpenAIGPTLMHeadModel(
    transformers.OpenAIGPTConfig(
      vocab_size=vocab_size, n_positions=config.n_ctx, **SIZES, **RATES
    )
  )
  weights = named(theirs)
  batches = read(path, chosen, config.n_ctx)
  mine, params = train(chosen, config, weights, batches)
  torchs = train_peer(torch, theirs, chosen, batches)
  np.testing.assert_allclose(mine, torchs, rtol=1e-5)
  assert mine[0] > 6.1  # ln(vocabulary) = 6.3
  assert np.mean(mine[-5:]) < 5.7
  expected = peers.to_named(peers.to_params(named(theirs), config.n_head))
  got = peers.to_named(params)
  assert got.keys() == expected.keys()
  for name, x in expected.items():
    y = got[name]
    if name.endswith('c_attn/bias'):
      # Leaves out that of the keys: the softmax does not see it, its gradient
      # is what rounding leaves, and Adam makes full steps of that.
      x, y = (np.delete(v.reshape(3, -1), 1, axis=0) for v in (x, y))
    error = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert error < 3e-5, (name, error)


def named(model):
  return {
    name: p.detach().numpy().copy() for name, p in model.named_parameters()
  }


def read(path, chosen, n_ctx):
  found = windows.Windows(
    shards.Tokens(path, 'train'),
    n_ctx=n_ctx,
    batch_size=chosen.data.batch_size,
    cross_documents=chosen.data.cross_documents,
    seed=chosen.data.seed,
  )
  return [found.batch(step) for step in range(UPDATES)]


def train(chosen, config, weights, batches):
  """Returns the losses, and the final weights."""
  mesh = make_mesh(1, 1, 1)
  program = pretraining.build(chosen, config, mesh, UPDATES)
  losses = []
  with sharding.use(mesh):
    seed = step_lib.place_seed(chosen.train.seed, mesh)
    state = program.new_state(seed)
    state = state.replace(
      params=jax.tree.map(
        lambda new, old: jax.device_put(new, old.sharding),
        peers.to_params(weights, config.n_head),
        state.params,
      )
    )
    for batch in batches:
      state, metrics = program.train_step(state, batch, seed)
      losses.append(float(metrics['loss']))
  return losses, jax.device_get(state.params)


def train_peer(torch, model, chosen, batches):
  """Returns the losses with torch's own AdamW, clipping and cross-entropy."""
  optim = chosen.optim
  decayed = [p for p in model.parameters() if p.ndim > 1]
  others = [p for p in model.parameters() if p.ndim == 1]
  adam = torch.optim.AdamW(
    [
      {'params': decayed, 'weight_decay': optim.weight_decay},
      {'params': others, 'weight_decay': 0.0},
    ],
    betas=(optim.b1, optim.b2),
    eps=optim.eps,
  )
  schedule = {'variant': optim.variant, 'schedule': optim.schedule}
  schedule |= {'peak_lr': PEAK, 'warmup': WARMUP, 'num_steps': UPDATES}
  losses = []
  model.train()
  for t, batch in enumerate(batches):
    for group in adam.param_groups:
      group['lr'] = reference.learning_rate(t, **schedule)
    tokens = torch.from_numpy(batch['tokens']).long()
    loss = model(tokens, labels=tokens).loss
    adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
    adam.step()
    losses.append(loss.item())
  return losses
