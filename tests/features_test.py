"""Tests layouts of examples by hand."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import batches, definition, examples, features, table
from tests.support import vocabulary
from tests.support.refusals import assert_refused
from tests.support.toy_tokenizers import DigitTokenizer, WordTokenizer, digits

START, DELIMITER, EXTRACT = 10, 11, 12
LABELLED = {'labels': ('a', 'b'), 'metrics': ('accuracy',)}
CLASSIFICATION = table.resolve(OwnTask(kind='classification', **LABELLED))
ENTAILMENT = table.resolve(OwnTask(kind='entailment', **LABELLED))
SIMILARITY = table.resolve(OwnTask(kind='similarity', **LABELLED))
REGRESSION = table.resolve(OwnTask(kind='similarity'))
CHOICE = table.resolve(OwnTask(kind='choice'))
QUESTION = table.resolve(OwnTask(kind='choice', texts=('text', 'text_pair')))


def lay_out(task, n_ctx, *rows):
  return features.build(task, rows, DigitTokenizer(), n_ctx)


def sequences(built):
  return [
    [built.sequence(n, c).tolist() for c in range(built.num_choices)]
    for n in range(built.num_examples)
  ]


def whole(*body):
  return [START, *body, EXTRACT]


@pytest.mark.parametrize(
  ('task', 'texts', 'choices', 'expected'),
  [
    (CLASSIFICATION, ('1 2 3',), (), [whole(1, 2, 3)]),
    (ENTAILMENT, ('1 2', '3'), (), [whole(1, 2, DELIMITER, 3)]),
    (
      SIMILARITY,
      ('1 2', '3'),
      (),
      [whole(1, 2, DELIMITER, 3), whole(3, DELIMITER, 1, 2)],
    ),
    (
      CHOICE,
      ('1 2',),
      ('3', '4 5'),
      [whole(1, 2, DELIMITER, 3), whole(1, 2, DELIMITER, 4, 5)],
    ),
    (
      QUESTION,
      ('1 2', '9'),
      ('3', '4 5'),
      [whole(1, 2, 9, DELIMITER, 3), whole(1, 2, 9, DELIMITER, 4, 5)],
    ),
    pytest.param(
      QUESTION,
      (digits(40), '7 8'),
      ('1 2 3', '4'),
      # Of the context 8 remain: 13 - 2 of the question - 3 of an answer.
      [
        whole(*range(8), 7, 8, DELIMITER, *answer)
        for answer in ((1, 2, 3), (4,))
      ],
      id='a long context spares question and answers',
    ),
    pytest.param(
      QUESTION,
      ('1', digits(40)),
      (digits(40), '4'),
      [
        whole(*range(7), DELIMITER, *range(6)),
        whole(*range(7), DELIMITER, 4),
      ],
      id='a question longer than its half',
    ),
  ],
)
def test_layouts_by_hand(task, texts, choices, expected):
  built = lay_out(task, 16, examples.Example(texts, choices, 1))
  assert sequences(built) == [expected]
  assert (built.labels.tolist(), built.labels.dtype) == ([1], np.int32)


@pytest.mark.parametrize(
  ('task', 'label', 'dtype'),
  [
    (REGRESSION, 2.5, np.float32),
    (REGRESSION, None, np.float32),
    (CLASSIFICATION, None, np.int32),
  ],
)
def test_labels_are_floats_of_regression_and_zeros_where_hidden(
  task, label, dtype
):
  built = lay_out(
    task, 16, examples.Example(('1',) * len(task.texts), (), label)
  )
  found = batches.Batches(built, batches.BatchSettings(2)).batch(0)['label']
  assert (found.dtype, found.tolist()) == (dtype, [label or 0, 0])
  assert (built.labels is None) == (label is None)


def test_single_text_fills_the_context():
  fits, longer = (
    lay_out(CLASSIFICATION, 8, examples.Example((digits(n),), (), 0))
    for n in (6, 7)
  )
  assert sequences(fits) == sequences(longer) == [[whole(*range(6))]]
  assert (fits.num_cut, longer.num_cut) == (0, 1)
  assert fits.cut_notice() == ''
  assert longer.cut_notice() == (
    '1 of 1 examples are cut to the context of 8 tokens and lose 14% of their '
    'text'
  )


@pytest.mark.parametrize(
  ('truncation', 'first', 'second', 'kept'),
  [  # n_ctx 16: room for 13, each is sure of 6
    ('room', 10, 3, (10, 3)),
    ('room', 3, 10, (3, 10)),
    ('room', 20, 3, (10, 3)),
    ('room', 3, 20, (3, 10)),
    ('room', 20, 20, (7, 6)),
    ('room', 6, 20, (6, 7)),
    ('room', 20, 6, (7, 6)),
    ('room', 20, 0, (13, 0)),
    # As in the released code: cuts each text to 16 // 2 - 2 even if both fit.
    ('halves', 20, 3, (6, 3)),
    ('halves', 3, 20, (3, 6)),
    ('halves', 7, 7, (6, 6)),
    ('halves', 6, 6, (6, 6)),
  ],
)
def test_pairs_share_the_room(truncation, first, second, kept):
  pair = digits(first), digits(second, 5)
  a, b = (DigitTokenizer().encode(text) for text in pair)
  a, b = a[: kept[0]], b[: kept[1]]
  one, other = whole(*a, DELIMITER, *b), whole(*b, DELIMITER, *a)
  row = examples.Example(pair, (), 0)
  for task, expected in ((ENTAILMENT, [one]), (SIMILARITY, [one, other])):
    built = features.build(task, [row], DigitTokenizer(), 16, truncation)
    assert sequences(built) == [expected]
    assert built.num_cut == (kept != (first, second))
  if second:
    row = examples.Example((pair[0],), (pair[1], '4'), 0)
    built = features.build(CHOICE, [row], DigitTokenizer(), 16, truncation)
    assert sequences(built) == [[one, whole(*a, DELIMITER, 4)]]


TEXT = st.lists(st.integers(0, 9), max_size=30).map(
  lambda ids: ' '.join(map(str, ids))
)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(8, 24), st.sampled_from(sorted(definition.KINDS)))
def test_no_sequence_exceeds_the_context(data, n_ctx, kind):
  task = {
    'classification': CLASSIFICATION,
    'entailment': ENTAILMENT,
    'similarity': SIMILARITY,
    'choice': QUESTION,
  }[kind]
  texts = tuple(data.draw(TEXT) for _ in task.texts)
  answers = tuple(data.draw(TEXT) for _ in range(3)) if kind == 'choice' else ()
  built = lay_out(task, n_ctx, examples.Example(texts, answers, 0))
  for sequence in sequences(built)[0]:
    assert 2 <= len(sequence) <= n_ctx
    assert (sequence[0], sequence[-1]) == (START, EXTRACT)
    assert sequence.count(DELIMITER) == (kind != 'classification')
  whole = sum(len(DigitTokenizer().encode(text)) for text in texts)
  whole += max((len(DigitTokenizer().encode(a)) for a in answers), default=0)
  room = n_ctx - (2 if kind == 'classification' else 3)
  assert built.num_cut == (whole > room)


def test_impossible_layouts_are_refused():
  with assert_refused('n_ctx is 7'):
    lay_out(CLASSIFICATION, 7, examples.Example(('1',), (), 0))
  with assert_refused('no examples'):
    lay_out(CLASSIFICATION, 16)


def test_a_real_tokenizer_and_a_real_task(shared_data):
  task = table.TASKS['rte']
  rows = examples.read(task, shared_data / 'tasks' / 'glue', 'dev')
  bpe = vocabulary.train_bpe([row.texts[0].lower() for row in rows], merges=300)
  built = features.build(task, rows, bpe, 128)
  start = bpe.vocab_size
  num_cut = 0
  for n, row in enumerate(rows):
    sequence = built.sequence(n, 0).tolist()
    premise, hypothesis = (bpe.encode(text) for text in row.texts)
    expected = [start, *premise, start + 1, *hypothesis, start + 2]
    num_cut += len(expected) > 128
    assert (
      sequence == expected if len(expected) <= 128 else len(sequence) == 128
    )
  assert built.num_cut == num_cut
  np.testing.assert_array_equal(built.labels, [row.label for row in rows])


def test_race_keeps_question_and_answer_of_long_articles(shared_data):
  path = shared_data / 'tasks' / 'archives' / 'race-all.zip'
  rows = examples.read(table.TASKS['race'], path, 'train')
  long = [
    examples.Example((row.texts[0] * 3, row.texts[1]), row.choices, row.label)
    for row in rows
  ]
  encoder = WordTokenizer()
  built = features.build(table.TASKS['race'], long, encoder, 512)
  assert built.num_cut == len(long) == 22
  assert built.labels.tolist() == [row.label for row in rows]
  for n, row in enumerate(long):
    article, question = map(encoder.encode, row.texts)
    assert len(article) > 512
    answers = [encoder.encode(answer) for answer in row.choices]
    kept = 512 - 3 - len(question) - max(map(len, answers))
    for c, answer in enumerate(answers):
      body = [*article[:kept], *question, 5001, *answer]
      assert built.sequence(n, c).tolist() == [5000, *body, 5002]
  assert built.lengths().tolist() == [512] * 22
