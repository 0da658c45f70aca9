"""Compares zero-shot likelihoods with those of the full logits."""

import functools
import math

import jax
import numpy as np
import pytest

from gpt1_jax.corpus import tokenization
from gpt1_jax.model import gpt
from gpt1_jax.tasks.zero_shot import decisions, likelihood
from gpt1_jax.train import sharding
from tests.support import zero_shot_runs
from tests.support.refusals import assert_refused
from tests.support.zero_shot_runs import (
  MODEL,
  STEPS,
  batches_of,
  candidates_of,
  load,
  questions_of,
  scored,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return zero_shot_runs.write_run(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return zero_shot_runs.write_tasks(tmp_path_factory.mktemp('tasks'))


@functools.cache
def full_logits(model):
  """One compiled function; what follows the text cannot change it."""

  @jax.jit
  def apply(params, tokens_BT):
    h_BTD, embed_VD = model.apply(
      {'params': params}, tokens_BT, dropout_key=None
    )
    return gpt.logits(h_BTD, embed_VD)[0]

  return apply


def log_probs_of(model, params, tokens):
  """float64 [T, V]: log-probabilities of the token after each position."""
  padded = np.zeros((1, MODEL['n_ctx']), np.int32)
  padded[0, : len(tokens)] = tokens
  logits = np.asarray(full_logits(model)(params, padded), np.float64)
  logits = logits[: len(tokens)]
  logits -= logits.max(axis=1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_log_probabilities_are_those_of_the_full_logits(run, folder):
  questions = questions_of(run, folder)
  sums = scored(run, questions)
  params, model = load(run, STEPS[0])
  for candidate, found in zip(candidates_of(questions), sums, strict=True):
    tokens, first = candidate.tokens, candidate.first_scored
    log_probs = log_probs_of(model, params, tokens)
    expected = [log_probs[t - 1, tokens[t]] for t in range(first, len(tokens))]
    assert candidate.num_scored == len(expected)
    assert found / max(len(expected), 1) == pytest.approx(
      np.mean(expected) if expected else 0.0, abs=1e-5
    )


def test_scores_do_not_depend_on_batches(run, folder):
  questions = questions_of(run, folder)
  one = scored(run, questions)
  counts = [max(c.num_scored, 1) for c in candidates_of(questions)]
  expected = decisions.decide(questions, one)
  for batch_size, widths in ((24, likelihood.WIDTHS), (8, ()), (64, (20, 30))):
    other = scored(run, questions, batch_size, widths)
    np.testing.assert_allclose(other / counts, one / counts, atol=1e-5, rtol=0)
    found = decisions.decide(questions, other)
    for a, b in zip(found, expected, strict=True):
      assert (a.task, a.score) == (b.task, b.score)
      np.testing.assert_array_equal(a.predictions, b.predictions)


def test_every_candidate_is_in_one_batch(run, folder):
  questions = questions_of(run, folder)
  batches = batches_of(questions)
  seen = {}
  for batch in map(batches.batch, range(batches.steps_per_epoch)):
    for row, index in enumerate(batch['index']):
      if index < 0:
        assert not batch['lm_weights'][row].any()
        continue
      assert index not in seen
      seen[index] = batch['lm_weights'][row, 0], batch['tokens'][row, 0]
  candidates = candidates_of(questions)
  assert sorted(seen) == list(range(len(candidates)))
  for index, (weights, tokens) in seen.items():
    expected, first = candidates[index].tokens, candidates[index].first_scored
    np.testing.assert_array_equal(tokens[: len(expected)], expected)
    assert np.flatnonzero(weights).tolist() == [*range(first, len(expected))]
    assert first > 0


def test_a_word_of_several_tokens_is_a_chain(run, folder):
  """P(positive) step by step: each token given those before it."""
  (questions,) = questions_of(run, folder, ['sst2'])
  sums = scored(run, [questions])
  params, model = load(run, STEPS[0])
  words = tokenization.load(run)
  text = (folder / 'SST-2' / 'dev.tsv').read_text().splitlines()[3]
  before = words.encode(text.split('\t')[0] + ' very')
  (result,) = decisions.decide([questions], sums)
  for choice, word in enumerate(('negative', 'positive')):
    pieces = words.encode(word)
    assert len(pieces) > 2
    whole = words.encode(f'{text.split(chr(9))[0]} very {word}')
    assert before + pieces == whole == questions.candidates[4 + choice].tokens
    probability = 1.0
    for i, piece in enumerate(pieces):
      context = before + pieces[:i]
      log_probs = log_probs_of(model, params, context)
      probability *= math.exp(log_probs[-1, piece])
    assert sums[4 + choice] == pytest.approx(math.log(probability), abs=1e-4)
    assert result.compared[2, choice] == sums[4 + choice]
  np.testing.assert_array_equal(
    result.predictions, result.compared[:, 1] > result.compared[:, 0]
  )


def test_dev_has_no_say_in_the_threshold(run, folder):
  questions = questions_of(run, folder, ['cola'])
  assert [part.split for part in questions] == ['train', 'dev']
  sums = scored(run, questions)
  train, dev = decisions.decide(questions, sums)
  means = sums / [c.num_scored for c in candidates_of(questions)]
  threshold = decisions.choose_threshold(means[:30], questions[0].labels)
  assert (
    train.diagnostics['threshold'] == dev.diagnostics['threshold'] == threshold
  )
  sums[30:] = np.linspace(-500, -1, 17)
  questions[1].labels[:] = 1 - questions[1].labels
  _, other = decisions.decide(questions, sums)
  assert other.diagnostics['threshold'] == threshold
  assert other.score != dev.score


def test_real_rows_from_the_archives(shared_data, run):
  path = shared_data / 'tasks' / 'archives'
  questions = questions_of(run, path)
  counts = {(part.task, part.split): len(part.labels) for part in questions}
  assert set(counts) >= {
    ('cola', 'train'),
    ('cola', 'dev'),
    ('sst2', 'dev'),
    ('race_middle', 'test'),
    ('race_high', 'test'),
  }
  sums = scored(run, questions)
  answers = {part.task: part for part in decisions.decide(questions, sums)}
  race = answers['race']
  halves = counts['race_middle', 'test'] + counts['race_high', 'test']
  assert len(race.predictions) == halves
  assert race.compared.shape == (halves, 4)


def test_a_checkpoint_that_has_diverged(run, folder):
  questions = questions_of(run, folder, ['sst2'])
  batches = batches_of(questions)
  params, model = load(run, 3)
  params = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  with sharding.use(mesh), assert_refused('not finite'):
    likelihood.score_fn(model, mesh)(params, batches, lambda *_: None)
