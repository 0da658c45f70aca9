"""Pretraining beside PyTorch: the same text, weights and updates.

Dropout is off, as no two libraries draw the same masks; the model, the loss,
clipping, AdamW, the decay and the schedule are what is compared. The losses
agree to 1e-5 relative all along, and the weights at the end.
"""

import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import pretrain as config_file
from gpt1_jax import config as config_lib
from gpt1_jax.corpus import shards, windows
from gpt1_jax.train import pretraining, sharding, step as step_lib
from tests.support import peers, reference
from tests.support.meshes import make_mesh

NEEDED = "needs the peers extra: pip install -e '.[test,peers]'"
pytestmark = [pytest.mark.peers, pytest.mark.slow]
torch = pytest.importorskip('torch', reason=NEEDED)
transformers = pytest.importorskip('transformers', reason=NEEDED)

UPDATES, PEAK, WARMUP = 60, 2e-3, 10


def settings(path):
  config = config_file.get_config('mini')
  config.model.update(n_layer=3, n_head=4, n_embd=64, n_ctx=64, dtype='float32')
  config.model.update(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
  config.optim.update(peak_lr=PEAK, warmup=float(WARMUP))
  config.data.update(path=str(path), batch_size=8)
  return config_lib.parse(config_lib.PretrainConfig, config.to_dict())


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  path = tmp_path_factory.mktemp('text') / 'shards'
  flags = ('--input=builtin:python-reference', '--merges=500', '--workers=1')
  subprocess.run(
    [sys.executable, '-m', 'gpt1_jax.prepare', f'--output={path}', *flags],
    check=True,
    capture_output=True,
  )
  return path


def test_sixty_updates_on_real_text(prepared):
  vocab_size = shards.read_meta(prepared)['tokenizer']['vocab_size']
  chosen = settings(prepared)
  config = pretraining.model_config(chosen, vocab_size)
  torch.manual_seed(0)
  theirs = transformers.OpenAIGPTLMHeadModel(
    transformers.OpenAIGPTConfig(
      vocab_size=vocab_size,
      n_positions=config.n_ctx,
      n_embd=config.n_embd,
      n_layer=config.n_layer,
      n_head=config.n_head,
      embd_pdrop=0.0,
      attn_pdrop=0.0,
      resid_pdrop=0.0,
    )
  )
  weights = named(theirs)
  batches = read(prepared, chosen, config.n_ctx)
  mine, params = ours(chosen, config, weights, batches)
  torchs = peer(theirs, chosen, batches)
  np.testing.assert_allclose(mine, torchs, rtol=1e-5)
  assert mine[0] > 6.1  # ln(vocabulary) = 6.3
  assert np.mean(mine[-5:]) < 5.7
  expected = peers.to_named(peers.to_params(named(theirs), config.n_head))
  got = peers.to_named(params)
  assert got.keys() == expected.keys()
  for name, x in expected.items():
    y = got[name]
    if name.endswith('c_attn/bias'):
      # Not that of the keys: the softmax does not see it, its gradient is what
      # rounding leaves, and Adam makes full steps of that.
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


def ours(chosen, config, weights, batches):
  """The losses, and the weights at the end."""
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


def peer(model, chosen, batches):
  """The losses of torch's own AdamW, clipping and cross-entropy."""
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
  losses = []
  model.train()
  for t, batch in enumerate(batches):
    for group in adam.param_groups:
      group['lr'] = reference.learning_rate(
        t,
        variant=optim.variant,
        schedule=optim.schedule,
        peak_lr=PEAK,
        warmup=WARMUP,
        num_steps=UPDATES,
      )
    tokens = torch.from_numpy(batch['tokens']).long()
    loss = model(tokens, labels=tokens).loss
    adam.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
    adam.step()
    losses.append(loss.item())
  return losses
