"""Decoding with a cache computes the same numbers as without one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt1_jax.model import continuous, decoding, models, sampling
from tests.support import networks

SIZES = {'n_embd': 32, 'vocab_size': 29, 'n_special': 3}
GPT = dataclasses.replace(networks.GPT_CONFIG, n_layer=3, **SIZES)
LSTM = dataclasses.replace(networks.LSTM_CONFIG, units=40, **SIZES)
EACH = pytest.mark.parametrize('config', [GPT, LSTM], ids=['gpt', 'lstm'])
GREEDY = sampling.Sampling(True, 1.0, 0, 1.0)
FREE = sampling.Sampling(False, 1.3, 0, 1.0)
PROMPTS = ([3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2])


@functools.cache
def made(config):
  """Returns parameters large enough for the tokens to matter."""
  draw = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: x + 0.2 * draw.standard_normal(x.shape, np.float32),
    jax.device_get(networks.fresh(config)),
  )


@functools.partial(jax.jit, static_argnums=0)
def forward(config, params, tokens_1T):
  variables = {'params': params}
  return models.new(config).apply(variables, tokens_1T, dropout_key=None)[0]


def states(config, tokens):
  """Returns the states [T, D] of a whole text, without a cache."""
  padded = [*tokens, *[0] * (config.n_ctx - len(tokens))]
  h_1TD = forward(config, made(config), jnp.array([padded]))
  return np.asarray(h_1TD[0, : len(tokens)])


def next_logits(config, tokens):
  embed_VD = made(config)['tokens_embed'][: config.vocab_size]
  return states(config, tokens)[-1] @ embed_VD.T


@EACH
def test_states_equal_those_of_the_whole_text(config):
  """Reads prompts of unequal length at once, then a token at a time."""
  model, params = models.new(config), made(config)
  rows = [list(prompt) for prompt in PROMPTS]
  tokens_BT, lengths_B = decoding.padded(rows, config.n_ctx)
  tokens_BT[tokens_BT == 0] = 17  # padding after a row, which must not matter
  for row, tokens_T in zip(rows, tokens_BT, strict=True):
    tokens_T[: len(row)] = row
  cache, h_BD = decoding.prefill(model, params, tokens_BT, lengths_B)
  draw = np.random.default_rng(1)
  for step in range(config.n_ctx - max(map(len, rows)) + 1):
    want = [states(config, row)[-1] for row in rows]
    np.testing.assert_allclose(h_BD, want, rtol=0, atol=1e-5)
    token_B = draw.integers(0, 29, len(rows), np.int32)
    rows = [[*row, int(t)] for row, t in zip(rows, token_B, strict=True)]
    if max(map(len, rows)) <= config.n_ctx:
      cache, h_BD = decoding.decode(
        model, params, cache, token_B, jnp.array(lengths_B + step)
      )


def generate(
  config, prompts, *, num_tokens=5, num_samples=1, seed=0, how=GREEDY
):
  """Returns the new tokens [P, num_samples, num_tokens]."""
  texts = [
    continuous.Text(list(prompt), how, seed, number, sample)
    for number, prompt in enumerate(prompts)
    for sample in range(num_samples)
  ]
  decoder = continuous.Decoder(*decoding.prepared(made(config), config))
  for _ in range(num_tokens):
    decoder.step(texts)
  new = [text.ids[-num_tokens:] for text in texts]
  return np.reshape(new, (len(prompts), num_samples, num_tokens))


@EACH
@pytest.mark.parametrize(
  'length',
  [
    1,
    pytest.param(5, marks=pytest.mark.slow),
    15,
    pytest.param(16, marks=pytest.mark.slow),
    40,
  ],
)
def test_greedy_tokens_follow_the_rule_for_long_texts(config, length):
  prompt = np.random.default_rng(length).integers(0, 29, length).tolist()
  ours = generate(config, [prompt], num_tokens=30)[0, 0].tolist()
  seen, want = prompt[-config.n_ctx :], []
  for _ in range(30):
    want.append(int(next_logits(config, seen).argmax()))
    seen.append(want[-1])
    if len(seen) > config.n_ctx:  # continues from its last half
      seen = seen[-config.n_ctx // 2 :]
  assert ours == want


@EACH
def test_a_row_does_not_depend_on_the_others(config):
  """Passes full contexts, which the rows reach at different times."""
  sample = functools.partial(generate, config, num_tokens=24, how=FREE)
  together = sample(PROMPTS, num_samples=2)
  assert together.shape == (3, 2, 24)
  assert together.max() < config.vocab_size
  first = sample(PROMPTS[:1])
  assert (first[0, 0] == together[0, 0]).all()
  assert (together[:, 0] != together[:, 1]).any(axis=1).all()
  assert (sample(PROMPTS, num_samples=2) == together).all()
  assert (sample(PROMPTS, num_samples=2, seed=1) != together).any()


def test_the_cache_grows_with_its_texts():
  """Grows from 64 to 128 positions; joins a text that takes all 160."""
  config = dataclasses.replace(GPT, n_ctx=160)
  draw = np.random.default_rng(2)
  texts = [
    continuous.Text(draw.integers(0, 29, length).tolist(), GREEDY, 0)
    for length in (61, 130)
  ]
  decoder = continuous.Decoder(*decoding.prepared(made(config), config))
  for step in range(9):
    growing = texts if step > 4 else texts[:1]
    for text, token in zip(growing, decoder.step(growing), strict=True):
      logits_V = next_logits(config, text.ids[:-1])
      want = jax.nn.log_softmax(logits_V)[token.id]
      assert token.log_prob == pytest.approx(float(want), abs=1e-5)


def test_the_cache_has_room_from_the_start():
  """Compiles the step once, not for each width that a text passes."""
  config = dataclasses.replace(GPT, n_ctx=160)
  decoder = continuous.Decoder(*decoding.prepared(made(config), config))
  text = continuous.Text([3], GREEDY, 0, room=100)
  widths = set()
  for _ in range(100):
    decoder.step([text])
    widths |= {x.shape[1] for x in jax.tree.leaves(decoder._cache)}
  assert widths == {128}


def test_tokens_are_drawn_as_often_as_their_probability():
  logits_V = next_logits(GPT, PROMPTS[0])
  drawn = sampling.choose(
    jnp.broadcast_to(logits_V, (20_000, 29)),
    jax.random.split(jax.random.key(0), 20_000),
    jnp.zeros(20_000, jnp.int32),
    sampling.stack_rules([FREE] * 20_000),
  )
  counts_V = np.bincount(drawn, minlength=29)
  probs_V = np.exp((logits_V - logits_V.max()) / 1.3)
  probs_V /= probs_V.sum()
  error_V = np.sqrt(20_000 * probs_V * (1 - probs_V))
  assert (abs(counts_V - 20_000 * probs_V) < 5 * error_V + 1).all()


@pytest.mark.parametrize(
  ('top_k', 'top_p', 'kept'),
  [
    (0, 1.0, {0, 1, 2, 3}),
    (2, 1.0, {1, 3}),
    (9, 1.0, {0, 1, 2, 3}),
    (0, 0.5, {1}),
    (0, 0.51, {1, 3}),
    (0, 1e-9, {1}),
    # After top_k the two share all: 5/8 and 3/8.
    (2, 0.6, {1}),
    (2, 0.7, {1, 3}),
  ],
)
def test_top_k_and_top_p_keep_the_likeliest(top_k, top_p, kept):
  probs_BV = np.array([[0.15, 0.5, 0.05, 0.3]])
  logits_BV = sampling.kept_logits(
    jnp.log(probs_BV),
    sampling.stack_rules([sampling.Sampling(False, 1.0, top_k, top_p)]),
  )
  assert set(np.flatnonzero(np.isfinite(logits_BV[0]))) == kept


def test_a_decoded_token_reads_no_other():
  """Multiplies one row of states by each matrix, not T of them."""
  model, params = models.new(GPT), made(GPT)
  tokens = decoding.padded([[1] * 9], GPT.n_ctx)
  cache, _ = decoding.prefill(model, params, *tokens)
  lowered = decoding.decode.lower(
    model, params, cache, jnp.array([1]), jnp.array([9])
  )
  cost = lowered.compile().cost_analysis()
  D, F, T = GPT.n_embd, 4 * GPT.n_embd, GPT.n_ctx
  # A scanned body is counted once.
  layer = 2 * (4 * D * D + 2 * D * F + 2 * T * D)
  assert layer <= cost['flops'] < 1.6 * layer
