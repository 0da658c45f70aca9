"""The demo's task: separate splits, right labels, only unseen text."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from gpt1_jax.corpus import shards
from gpt1_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def demo():
  """Imports launch/demo_task.py, which is not in the package."""
  spec = importlib.util.spec_from_file_location(
    'demo_task', ROOT / 'launch' / 'demo_task.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _topic(name: str, num_lines: int) -> str:
  """Returns lines of 20 distinct words that name topic, line and place."""
  letters = 'abcdefghijklmnopqrst'
  return ' \n '.join(
    ' '.join(f'{name}{chr(97 + line)}{letter}' for letter in letters)
    for line in range(num_lines)
  )


@pytest.fixture(scope='module')
def parts():
  return tuple(
    {name: _topic(name, 6) for name in part} for part in ('pqrs', 'tu')
  )


def _topics_of(text: str) -> set[str]:
  return {word[0] for word in text.split()}


def test_the_right_choice_continues_and_the_wrong_is_of_another_topic(
  demo, parts
):
  held_out = parts[0] | parts[1]
  for rows in demo.make_task(*parts, set()):
    assert {row['label'] for row in rows} == {0, 1}
    for row in rows:
      right = row['choices'][row['label']]
      wrong = row['choices'][1 - row['label']]
      (topic,) = _topics_of(row['text'])
      assert f'{row["text"]} {right}' in held_out[topic].replace(' \n ', ' ')
      assert _topics_of(wrong).isdisjoint({topic})
      assert len(row['text'].split()) == demo.CONTEXT_WORDS
      assert len(right.split()) == len(wrong.split()) == demo.ANSWER_WORDS


def test_train_and_dev_share_no_topic(demo, parts):
  train, dev = demo.make_task(*parts, set())
  both = [
    {
      t
      for row in rows
      for text in (row['text'], *row['choices'])
      for t in _topics_of(text)
    }
    for rows in (train, dev)
  ]
  assert both == [set(part) for part in parts]
  assert len(train) == 2 * len(dev)


def test_lines_that_pretraining_saw_are_skipped(demo, parts):
  seen = {line.strip() for line in parts[0]['p'].split('\n')}
  train, dev = demo.make_task(*parts, seen)
  words = {
    word
    for row in (*train, *dev)
    for text in (row['text'], *row['choices'])
    for word in text.split()
  }
  assert not {word for word in words if word.startswith('p')}
  assert {word[0] for word in words} == set('qrstu')


def test_a_line_in_two_topics_belongs_to_the_shorter(demo, parts):
  quoting = {**parts[1], 'v': _topic('v', 6) + ' \n ' + parts[0]['p']}
  train, dev = demo.make_task(parts[0], quoting, set())
  for row in (*train, *dev):
    for text in (row['text'], *row['choices']):
      assert len(_topics_of(text)) == 1


def test_the_task_is_deterministic(demo, parts):
  assert demo.make_task(*parts, set()) == demo.make_task(*parts, set())


def test_too_few_topics_are_refused(demo, parts):
  few = {'t': parts[1]['t']}
  with pytest.raises(UserError, match='too few topics'):
    demo.make_task(parts[0], few, set())


def test_topics_are_those_that_prepare_held_out(demo, tmp_path):
  subprocess.run(
    [
      sys.executable,
      '-m',
      'gpt1_jax.prepare',
      f'--input={demo.CORPUS}',
      f'--output={tmp_path / "shards"}',
      '--merges=100',
      '--validation_fraction=0',
      *(f'--hold_out={demo.CORPUS}#{name}' for name in demo.HELD_OUT),
      '--workers=1',
    ],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  *parts, seen = demo.topics(tmp_path / 'shards')
  assert tuple(sorted(part) for part in parts) == (
    sorted(demo.TRAIN),
    sorted(demo.DEV),
  )
  rows = {
    row.source.split('#')[1]
    for row in shards.read_documents(tmp_path / 'shards')
    if row.split == 'validation'
  }
  assert rows == {*demo.TRAIN, *demo.DEV}
  words = sum(len(text.split()) for part in parts for text in part.values())
  assert (
    words
    == shards.read_meta(tmp_path / 'shards')['splits']['validation']['words']
  )
  train, dev = demo.make_task(*parts, seen)
  assert len(train) > 2000
  assert len(dev) > 1000
