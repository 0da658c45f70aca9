"""The demo's task has separate splits, right labels and only unseen text."""

import demo_task as demo
import pytest

from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError
from tests.support import commands


def _topic(name: str, num_lines: int) -> str:
  """Returns lines of 20 distinct words that name topic, line and place."""
  letters = 'abcdefghijklmnopqrst'
  return ' \n '.join(
    ' '.join(f'{name}{chr(97 + line)}{letter}' for letter in letters)
    for line in range(num_lines)
  )


PARTS = tuple({name: _topic(name, 6) for name in x} for x in ('pqrs', 'tu'))


def topics_of(*rows) -> set[str]:
  texts = [text for row in rows for text in (row['text'], *row['choices'])]
  return {word[0] for text in texts for word in text.split()}


def test_the_right_choice_continues_and_the_wrong_is_of_another_topic():
  held_out = PARTS[0] | PARTS[1]
  for rows in demo.make_task(*PARTS, set()):
    assert {row['label'] for row in rows} == {0, 1}
    for row in rows:
      right = row['choices'][row['label']]
      wrong = row['choices'][1 - row['label']]
      text = f'{row["text"]} {right}'
      (topic,) = {word[0] for word in text.split()}
      assert text in held_out[topic].replace(' \n ', ' ')
      assert topic not in {word[0] for word in wrong.split()}
      assert len(row['text'].split()) == demo.CONTEXT_WORDS
      assert len(right.split()) == len(wrong.split()) == demo.ANSWER_WORDS


def test_train_and_dev_share_no_topic():
  train, dev = demo.make_task(*PARTS, set())
  assert [topics_of(*rows) for rows in (train, dev)] == [*map(set, PARTS)]
  assert len(train) == 2 * len(dev)


def test_lines_that_pretraining_saw_are_skipped():
  seen = {line.strip() for line in PARTS[0]['p'].split('\n')}
  train, dev = demo.make_task(*PARTS, seen)
  assert topics_of(*train, *dev) == set('qrstu')


def test_a_line_in_two_topics_belongs_to_the_shorter():
  quoting = {**PARTS[1], 'v': _topic('v', 6) + ' \n ' + PARTS[0]['p']}
  train, dev = demo.make_task(PARTS[0], quoting, set())
  for row in (*train, *dev):
    for text in (row['text'], *row['choices']):
      assert len({word[0] for word in text.split()}) == 1


def test_the_task_is_deterministic():
  assert demo.make_task(*PARTS, set()) == demo.make_task(*PARTS, set())


def test_too_few_topics_are_refused():
  few = {'t': PARTS[1]['t']}
  with pytest.raises(UserError, match='too few topics'):
    demo.make_task(PARTS[0], few, set())


def test_topics_are_those_that_prepare_held_out(tmp_path):
  path = tmp_path / 'shards'
  commands.succeed(
    'prepare',
    *(f'--input={demo.CORPUS}', f'--output={path}', '--merges=100'),
    *('--validation_fraction=0', '--workers=1'),
    *(f'--hold_out={demo.CORPUS}#{name}' for name in demo.HELD_OUT),
  )
  *parts, seen = demo.topics(path)
  assert [sorted(x) for x in parts] == [sorted(demo.TRAIN), sorted(demo.DEV)]
  rows = shards.read_documents(path)
  held_out = {row.source for row in rows if row.split == 'validation'}
  assert held_out == {f'{demo.CORPUS}#{name}' for name in demo.HELD_OUT}
  words = sum(len(text.split()) for part in parts for text in part.values())
  assert words == shards.read_meta(path)['splits']['validation']['words']
  train, dev = demo.make_task(*parts, seen)
  assert len(train) > 2000
  assert len(dev) > 1000
