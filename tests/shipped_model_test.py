"""models/mini: the pretrained model that ships with the project."""

import json
import pathlib

import numpy as np
import pytest

import gpt1_jax
from tests.support import commands

MODEL = pathlib.Path(__file__).parents[1] / 'models' / 'mini'
# Written for this test, in the style of the novels that the model read.
PASSAGE = (
  'She came into the room without a word, and sat down by the fire. "You have '
  'been a long time away," said the old man, looking at her over his glasses. '
  '"I had to wait for the carriage, sir," she answered, "and the roads are bad '
  'after the rain." He said nothing more, but took her hand in his own, and '
  'they sat together in silence until the clock struck ten.'
)


@pytest.fixture(scope='module')
def run():
  return gpt1_jax.load(str(MODEL))


def test_perplexity_of_a_fixed_passage(run):
  assert np.exp(-run.score(PASSAGE).mean()) == pytest.approx(14.16, rel=0.02)


def test_word_order_matters_to_it(run):
  words = PASSAGE.split()
  np.random.default_rng(0).shuffle(words)
  shuffled = run.score(' '.join(words)).mean()
  assert run.score(PASSAGE).mean() > shuffled + 1


def test_samples_are_likelier_than_the_frequencies_of_words(run):
  text = run.generate('the old man', max_tokens=60, seed=1)
  assert run.score(text).mean() > -6.0  # words drawn by frequency: below -6.4
  assert len(set(text.split())) > 15


def test_it_is_small_and_says_where_it_comes_from():
  size = sum(file.stat().st_size for file in MODEL.rglob('*'))
  assert size < 22e6
  card = (MODEL / 'README.md').read_text(encoding='utf-8')
  for heading in ('## Corpus', '## Licence', '## Scores', '## Limits'):
    assert heading in card
  text = (MODEL / 'config.json').read_text(encoding='utf-8')
  assert json.loads(text)['config']['data']['path'] == ''


def test_the_commands_take_it(tmp_path):
  out = commands.succeed(
    'generate', f'--workdir={MODEL}', '--prompt=she said', '--max_tokens=5'
  )
  assert out.startswith('she said')
  for split in ('train', 'dev'):
    rows = [{'text': f'a {x} film', 'label': x} for x in ('good', 'bad')] * 4
    lines = '\n'.join(map(json.dumps, rows))
    (tmp_path / f'{split}.jsonl').write_text(lines)
  commands.succeed(
    'finetune', '--config=configs/own_task.py', f'--workdir={tmp_path / "run"}',
    f'--config.init_from={MODEL}', f'--config.data.path={tmp_path}',
    '--config.train.num_epochs=0', '--config.train.num_steps=2',
    '--config.data.batch_size=4',
  )  # fmt: skip
  scores = json.loads((tmp_path / 'run' / 'scores.json').read_text())
  assert scores['baselines']['bag_of_words']['accuracy'] == 1.0
