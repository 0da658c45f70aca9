"""Tests the sequences that zero-shot tasks lay out."""

import json

import numpy as np

from gpt1_jax.tasks.zero_shot import (
  decisions,
  questions as questions_lib,
  winograd,
)
from tests.support import toy_tokenizers, winograd_files, zero_shot_runs
from tests.support.refusals import assert_refused


def laid_out(questions):
  return [(c.tokens, c.first_scored) for c in questions.candidates]


def test_long_contexts_lose_their_front(tmp_path):
  article = {
    'article': toy_tokenizers.digits(10),
    'questions': ['7 7'],
    'options': [['1', '2 2 2', '3 3', '']],
    'answers': ['B'],
  }
  for level in ('middle', 'high'):
    winograd_files.write(tmp_path, f'test/{level}/1.txt', json.dumps(article))
  encode = toy_tokenizers.DigitTokenizer().encode
  for n_ctx, context in ((9, [6, 7, 8, 9, 7, 7]), (4, [7])):
    middle, high = questions_lib.read('race', str(tmp_path), encode, n_ctx)
    assert (middle.task, high.task) == ('race_middle', 'race_high')
    assert (middle.split, middle.num_cut, middle.labels.tolist()) == (
      'test',
      1,
      [1],
    )
    assert laid_out(middle) == [
      ([*context, *answer], len(context))
      for answer in ([1], [2, 2, 2], [3, 3], [])
    ]
  # Longer than the context: the answer's end goes, a token before it stays.
  middle, _ = questions_lib.read('race', str(tmp_path), encode, 3)
  assert laid_out(middle)[1] == ([7, 2, 2], 1)
  middle, _ = questions_lib.read('race', str(tmp_path), encode, 99)
  assert middle.num_cut == 0
  assert laid_out(middle)[0] == ([*range(10), 7, 7, 1], 12)
  # Nothing to score is never the answer.
  sums = np.array([-9.0, -9.0, -9.0, 0.0] * 2)
  answers = decisions.decide([middle, middle], sums)
  assert answers[0].predictions.tolist() == [1]
  assert answers[0].diagnostics['unscored'] == 1


def test_long_sentences_lose_their_end(tmp_path):
  for split in ('train', 'dev'):
    lines = f's\t1\t\t{toy_tokenizers.digits(9)}\ns\t0\t\t5\n'
    winograd_files.write(tmp_path, f'CoLA/{split}.tsv', lines)
  encode = toy_tokenizers.DigitTokenizer().encode
  for part in questions_lib.read('cola', str(tmp_path), encode, 4):
    assert laid_out(part) == [([0, 1, 2, 3], 1), ([5], 1)]
    assert part.num_cut == 1


def test_the_rest_begins_after_the_referent(tmp_path):
  words = toy_tokenizers.WordTokenizer()
  seen = []

  def encode(text):
    seen.append(text)
    return words.encode(text)

  path = winograd_files.write(tmp_path, 'test.c.txt', winograd_files.BLOCKS)
  (questions,) = questions_lib.read('dprd', path, encode, 64)
  rest = words.encode('had brought flour.')
  for choice, referent in enumerate(('The baker', 'the miller')):
    whole = (
      f'The baker thanked the miller because {referent} had brought flour.'
    )
    sequence, first = laid_out(questions)[choice]
    assert sequence == words.encode(whole)
    assert sequence[first:] == rest


def test_punctuation_after_the_referent_is_scored(tmp_path):
  words = zero_shot_runs.tokenizer()
  schema = winograd_files.SCHEMA.format(rest="'s rim bent.", letter='A')
  path = winograd_files.write(
    tmp_path, 'WSCollection.xml', winograd_files.XML.format(schema)
  )
  (questions,) = questions_lib.read('wsc273', path, words.encode, 99)
  for sequence, first in laid_out(questions):
    head = words.decode(sequence[:first])
    assert head.endswith(('because the lid', 'because the pot'))
    assert words.decode(sequence).endswith("'s rim bent.")


def test_real_cola_and_sst2(shared_data):
  path = str(shared_data / 'tasks' / 'glue')
  encode = toy_tokenizers.WordTokenizer().encode
  train, dev = questions_lib.read('cola', path, encode, 512)
  assert (len(train.labels), len(dev.labels)) == (8551, 1043)
  assert {c.first_scored for c in train.candidates} == {1}
  last = (shared_data / 'tasks/glue/CoLA/dev.tsv').read_text().splitlines()[-1]
  assert dev.candidates[-1].tokens == encode(last.split('\t')[3])
  (sst2,) = questions_lib.read('sst2', path, encode, 512)
  assert (len(sst2.labels), sst2.split, sst2.num_cut) == (872, 'dev', 0)
  with assert_refused(f' in {path}, '):
    questions_lib.read('race', path, encode, 512)


def test_names_are_those_that_have_readers():
  assert set(winograd.TASKS) < set(questions_lib.TASKS)
