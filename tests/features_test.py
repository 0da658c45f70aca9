"""Layouts by hand, and batches that hold every example exactly once."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import batches, definition, examples, features, table
from tests.support import vocabulary
from tests.support.refusals import assert_refused
from tests.support.toy_tokenizers import DigitTokenizer, WordTokenizer

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


def batched(built, size, *settings, host_rows=None, **more):
  plan = batches.BatchSettings(size, *settings, **more)
  return batches.Batches(built, plan, host_rows)


def sequences(built):
  return [
    [built.sequence(n, c).tolist() for c in range(built.num_choices)]
    for n in range(built.num_examples)
  ]


def digits(count, first=0):
  return ' '.join(str((first + i) % 10) for i in range(count))


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
  found = batched(built, 2).batch(0)['label']
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


def test_a_batch_by_hand():
  rows = [
    examples.Example(('1', '2 3'), (), 1),
    examples.Example(('4 5 6', ''), (), 0),
  ]
  batch = batched(lay_out(ENTAILMENT, 16, *rows), 3, lengths=(4, 8)).batch(0)
  expected = {
    'tokens': [
      [[START, 1, DELIMITER, 2, 3, EXTRACT, 0, 0]],
      [[START, 4, 5, 6, DELIMITER, EXTRACT, 0, 0]],
      [[0] * 8],
    ],
    'lm_weights': [[[0, 1, 1, 1, 1, 1, 0, 0]]] * 2 + [[[0] * 8]],
    'extract': [[5], [5], [0]],
    'label': [1, 0, 0],
    'example_weight': [1, 1, 0],
    'index': [0, 1, -1],
    'mean_targets': [5, 5, 5],
  }
  assert {key: value.tolist() for key, value in batch.items()} == expected
  for key in ('tokens', 'extract', 'label', 'index'):
    assert batch[key].dtype == np.int32
  for key in ('lm_weights', 'example_weight', 'mean_targets'):
    assert batch[key].dtype == np.float32


def numbered(lengths, n_ctx=64):
  """Classification examples of the given text lengths, labels 0 and 1."""
  rows = [
    examples.Example((digits(length, n),), (), n % 2)
    for n, length in enumerate(lengths)
  ]
  return lay_out(CLASSIFICATION, n_ctx, *rows)


@settings(max_examples=60, deadline=None)
@given(
  lengths=st.lists(st.integers(0, 70), min_size=1, max_size=40),
  per_host=st.integers(1, 4),
  hosts=st.sampled_from([1, 2, 4]),
  epoch=st.integers(0, 3),
  seed=st.integers(0, 5),
  train=st.booleans(),
)
def test_every_example_once_whatever_the_hosts(
  lengths, per_host, hosts, epoch, seed, train
):
  built = numbered(lengths)
  size = per_host * hosts
  widths = (16, 32, 512)
  whole = batched(built, size, seed, widths, train)
  parts = [
    batched(built, size, seed, widths, train, host_rows=range(size)[i::hosts])
    for i in range(hosts)
  ]
  assert whole.steps_per_epoch == -(-len(lengths) // size)
  assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
  seen = []
  first = epoch * whole.steps_per_epoch
  for step in range(first, first + whole.steps_per_epoch):
    batch = whole.batch(step)
    shares = [part.batch(step) for part in parts]
    for key, value in batch.items():
      for i, share in enumerate(shares):
        np.testing.assert_array_equal(share[key], value[i::hosts])
    real = batch['index'][batch['example_weight'] > 0]
    assert (batch['index'][batch['example_weight'] == 0] == -1).all()
    seen += real.tolist()
    width = batch['tokens'].shape[-1]
    longest = built.lengths()[real].max()
    assert width == min(w for w in (16, 32, 64) if w >= longest)
    np.testing.assert_array_equal(batch['label'][: len(real)], real % 2)
  assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize('hosts', [1, 2])
def test_drop_last_drops_an_incomplete_batch(hosts):
  """Drops other examples each epoch, and none in evaluation (C: train.py)."""
  built = numbered([n % 50 for n in range(22)])
  widths = (16, 32)
  left_out = []
  for epoch in range(3):
    seen = []
    for host in range(hosts):
      split = batched(
        built, 8, 1, widths, True, True, host_rows=range(8)[host::hosts]
      )
      assert split.steps_per_epoch == 2
      for step in range(2):
        batch = split.batch(2 * epoch + step)
        assert batch['example_weight'].all()
        seen += batch['index'].tolist()
    assert len(set(seen)) == len(seen) == 16
    left_out.append(frozenset(range(22)) - frozenset(seen))
  assert len(set(left_out)) == 3
  evaluated = batched(built, 8, 1, widths, drop_last=True)
  assert evaluated.steps_per_epoch == 3
  with assert_refused('22 examples fill no batch', 'batch_size=22 or less'):
    batched(built, 32, 1, widths, True, drop_last=True)


def test_a_batch_larger_than_the_training_set_is_noticed():
  built = numbered([n % 50 for n in range(30)])
  (notice,) = batched(built, 32, 1, (64,), True).notices()
  assert notice == (
    '30 examples do not fill a batch of 32, so an epoch is one update; '
    '--config.data.batch_size=8, in another --workdir, makes it 4'
  )
  assert batched(built, 8, 1, (64,), True).steps_per_epoch == 4
  assert not [*batched(built, 30, 1, (64,), True).notices()]
  assert not [*batched(built, 32, 1, (64,)).notices()]  # evaluation


@pytest.mark.parametrize('train', [True, False])
def test_order_is_a_function_of_seed_and_epoch(train):
  built = numbered([n % 50 for n in range(100)])

  def epoch(number, seed):
    """Reads an epoch backwards: no batch depends on those before it."""
    split = batched(built, 8, seed, (32,), train=train)
    steps = split.steps_per_epoch
    each = [split.batch(number * steps + step) for step in range(steps)]
    for step in reversed(range(steps)):
      again = split.batch(number * steps + step)
      for key, value in each[step].items():
        np.testing.assert_array_equal(again[key], value)
    return [batch['index'].tolist() for batch in each]

  first = epoch(0, 1)
  assert first == epoch(0, 1)
  assert (first == epoch(7, 1)) == (first == epoch(0, 2)) == (not train)
  if not train:
    assert (np.diff(first[0]) > 0).all()


def test_short_examples_get_narrow_batches():
  built = numbered([5] * 90 + [60] * 10)
  split = batched(built, 10, 0, (8, 16, 64), train=True)
  widths = sorted(
    split.batch(step)['tokens'].shape[-1]
    for step in range(split.steps_per_epoch)
  )
  assert widths == [8] * 9 + [64]
  # The batches are shuffled, so their widths come in no fixed order.
  places = {
    next(
      step
      for step in range(10)
      if split.batch(epoch * 10 + step)['tokens'].shape[-1] == 64
    )
    for epoch in range(6)
  }
  assert len(places) > 2


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
