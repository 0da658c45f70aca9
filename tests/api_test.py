"""The Python API returns the same numbers as the model."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt1_jax
from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.inference import continuation, options
from gpt1_jax.interop import conversion
from gpt1_jax.model import continuous, decoding, inspection, sampling
from gpt1_jax.train import losses
from tests.support import networks, released

CONFIG = networks.GPT_CONFIG
TEXT = 'The quick brown fox\nand the old dog'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of weights large enough that tokens matter."""
  return released.legible_run(tmp_path_factory.mktemp('runs') / 'run', TEXT)


@pytest.fixture(scope='module')
def network():
  return decoding.prepared(networks.gpt_params(CONFIG), CONFIG)


@pytest.fixture(scope='module')
def tokens():
  draw = np.random.default_rng(0)
  return draw.integers(0, CONFIG.vocab_size, (2, CONFIG.n_ctx), np.int32)


def test_importing_the_package_imports_no_jax():
  code = (
    'import sys, gpt1_jax; assert {"load", "Run"} < {*dir(gpt1_jax)}; '
    'assert "jax" not in sys.modules; gpt1_jax.load'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
  with pytest.raises(AttributeError, match="no attribute 'lode'"):
    gpt1_jax.lode  # noqa: B018


def test_last_hidden_states_times_the_embedding_are_the_logits(run):
  hidden = run.hidden_states(TEXT)
  logits = run.logits(TEXT)
  T = len(run.encode(TEXT))
  assert hidden.shape == (4, T, 64)
  assert logits.shape == (T, run.config.vocab_size)
  np.testing.assert_allclose(
    hidden[-1] @ np.asarray(run._params['tokens_embed']).T,
    logits,
    rtol=0,
    atol=1e-5,
  )


def test_first_hidden_state_is_the_embedding(network, tokens):
  model, params = network
  found = inspection.hidden_states(model, params, tokens)[0]
  want = params['tokens_embed'][tokens] + params['positions_embed']
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


def test_attention_reproduces_each_block(network, tokens):
  """Computes every block from its input and the probabilities, in numpy."""
  model, params = network
  hidden = np.asarray(inspection.hidden_states(model, params, tokens))
  attention = np.asarray(inspection.attentions(model, params, tokens))
  np.testing.assert_allclose(attention.sum(axis=-1), 1, rtol=0, atol=1e-6)
  assert (np.triu(attention, 1) == 0).all()
  for layer in range(CONFIG.n_layer):
    block = jax.tree.map(np.asarray, params[f'h{layer}'])
    h_BTD = hidden[layer]
    weights = block['attn']['c_attn']
    v_BTHK = np.einsum('BTD,DHK->BTHK', h_BTD, weights['kernel'][:, 2])
    v_BTHK += weights['bias'][2]
    mixed = np.einsum('BHTS,BSHK->BTHK', attention[layer], v_BTHK)
    out = block['attn']['c_proj']
    a_BTD = np.einsum('BTHK,HKD->BTD', mixed, out['kernel']) + out['bias']
    n_BTD = layer_norm(h_BTD + a_BTD, block['ln_1'])
    fc, proj = block['mlp']['c_fc'], block['mlp']['c_proj']
    m_BTF = np.asarray(jax.nn.gelu(n_BTD @ fc['kernel'] + fc['bias']))
    m_BTD = m_BTF @ proj['kernel'] + proj['bias']
    want = layer_norm(n_BTD + m_BTD, block['ln_2'])
    np.testing.assert_allclose(hidden[layer + 1], want, rtol=0, atol=2e-5)


def layer_norm(x, weights):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-5) * weights['scale'] + weights['bias']


def test_predictions_are_those_of_the_loss(network, tokens):
  model, params = network
  found = inspection.predictions(model, params, tokens, 3)
  h_BTD, embed_VD = model.apply({'params': params}, tokens, dropout_key=None)
  want = losses.token_log_probs(h_BTD, embed_VD, jnp.asarray(tokens))
  np.testing.assert_allclose(found.log_probs_BT, want, rtol=0, atol=1e-5)
  logits = np.asarray(inspection.logits(model, params, tokens))
  best = logits.argsort(axis=-1)[:, :-1, ::-1][..., :3]
  np.testing.assert_array_equal(found.top_ids_BTk[:, 1:], best)


def test_score_gives_every_token_its_log_probability(run):
  ids = run.encode(TEXT)
  logits = run.logits([run.tokenizer.document_id, *ids])
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  want = log_probs[np.arange(len(ids)), ids]
  np.testing.assert_allclose(run.score(TEXT), want, rtol=0, atol=1e-5)
  assert run.score('').shape == (0,)


def test_a_long_text_is_scored_in_windows(run):
  n_ctx, half = run.config.n_ctx, run.config.n_ctx // 2
  ids = (run.encode(TEXT) * 9)[: n_ctx + half + 5]
  whole = [run.tokenizer.document_id, *ids]
  found = run.score(ids)
  assert found.shape == (len(ids),)
  for start in (0, half, 2 * half):
    window = whole[start : start + n_ctx]
    new = half if start else 1  # the first half is context
    want = run.predictions([window], 1)[0].log_probs_BT[new:]
    got = found[start + new - 1 :][: len(want)]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_texts_that_join_and_leave_a_batch_stay_the_same(network):
  """Passes full contexts; the tokens are those of each text alone."""
  model, params = network
  prompts = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
  how = sampling.Sampling(False, 0.9, 20, 0.95)
  alone = [continuous.Text(list(p), how, 5, i) for i, p in enumerate(prompts)]
  for text in alone:
    decoder = continuous.Decoder(model, params)
    for _ in range(20):
      decoder.step([text])
  texts = [continuous.Text(p, how, 5, i) for i, p in enumerate(prompts)]
  decoder = continuous.Decoder(model, params)
  for step in range(28):  # they begin at 0, 4 and 8, and take 20 steps each
    there = [t for i, t in enumerate(texts) if 0 <= step - 4 * i < 20]
    for text, token in zip(there, decoder.step(there), strict=True):
      assert text.ids[-1] == token.id
      assert [p for _, p in token.top] == sorted(
        (p for _, p in token.top), reverse=True
      )
  assert [text.ids for text in texts] == [text.ids for text in alone]


def test_none_draws_a_seed_and_stops_at_no_text():
  drawn = [options.parse({'seed': None, 'stop': None}) for _ in range(2)]
  assert drawn[0].seed != drawn[1].seed
  assert [how.stop for how in drawn] == [(), ()]
  assert options.parse({'stop': ''}).stop == ()


def test_generate_is_the_stream_and_stops_at_a_text(run):
  pieces = list(run.stream(TEXT, max_tokens=30, seed=2))
  text = ''.join(piece.text for piece in pieces)
  assert text == ''.join(piece.spelled for piece in pieces)
  assert run.generate(TEXT, max_tokens=30, seed=2) == run.spelled(TEXT) + text
  stop = text[7:10]
  end = text.index(stop)
  stopped = list(run.stream(TEXT, max_tokens=30, seed=2, stop=stop))
  assert ''.join(piece.text for piece in stopped) == text[:end]
  assert len(stopped) < len(pieces)


def test_a_sample_ends_with_its_document(run):
  sample = run.start('the', options.Options())
  token = continuous.Token(run.tokenizer.document_id, 0.0, ())
  assert sample.feed(token).text == ''
  assert sample.finish_reason == 'stop'


def test_pieces_are_the_text(run):
  assert ''.join(run.tokens(TEXT)) == run.spelled(TEXT)
  assert continuation.pieces(run.tokenizer, []) == []


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'temperature': float('nan')}, 'temperature is nan: must be finite'),
    ({'temperature': -1.0}, 'temperature is -1.0: must be at least 0'),
    ({'seed': 2**63}, 'seed is 9223372036854775808: must be below'),
    ({'top_p': 0.0, 'top_k': -1}, 'top_k is -1.*; top_p is 0.0: must be above'),
    ({'tempratur': 1}, 'no such key; did you mean temperature'),
  ],
)
def test_wrong_options_are_named(run, values, message):
  with pytest.raises(UserError, match=message):
    run.generate('the', **values)


def test_extreme_options_are_greedy(run):
  greedy = run.generate(TEXT, max_tokens=5, temperature=0)
  for values in (
    {'temperature': 1e-46, 'seed': 2**63 - 1},
    {'top_k': 1},
    {'top_p': 1e-46},
  ):
    assert run.generate(TEXT, max_tokens=5, **values) == greedy


def test_what_is_no_run_is_refused(tmp_path):
  path = tmp_path / 'README.md'
  path.write_text('text')
  (entry,) = os.scandir(os.fsencode(tmp_path))
  for given in (3, '', b'run', entry):
    with pytest.raises(UserError) as raised:
      gpt1_jax.load(given)
    assert str(raised.value) == f'load takes the path of a run, not {given!r}'
  with pytest.raises(UserError, match=r'README.md: not a run \(it has no che'):
    gpt1_jax.load(path)


def test_texts_that_do_not_fit_are_refused(run):
  with pytest.raises(UserError, match='has 49 tokens, the model reads 48'):
    run.logits([1] * 49)
  for wrong in (b'abc', None, [1.5], ['5']):
    with pytest.raises(UserError, match='give a text'):
      run.logits(wrong)
  with pytest.raises(UserError, match='token id 99999 is outside'):
    run.logits([99999])


def test_other_formats_load_the_same_model(tmp_path, run):
  released.write(tmp_path / 'openai')
  ours = gpt1_jax.load(tmp_path / 'openai')
  assert ours.tokenizer.kind == 'openai'
  assert ours.generate('the fox', max_tokens=3, seed=1).startswith('the fox')
  conversion.to_huggingface(storage.path(run.name), tmp_path / 'hf')
  again = gpt1_jax.load(tmp_path / 'hf')
  np.testing.assert_array_equal(again.logits(TEXT), run.logits(TEXT))
  with pytest.raises(UserError, match='no checkpoints to choose from'):
    gpt1_jax.load(tmp_path / 'hf', 3)
