"""The model card reports what the run's own files hold."""

import dataclasses

from gpt1_jax.interop import model_card
from gpt1_jax.train.checkpoint import Checkpoint, CheckpointMeta
from tests.support import networks

MODEL = dataclasses.replace(
  networks.GPT_CONFIG, n_embd=128, n_ctx=64, vocab_size=571, dtype='bfloat16'
)
HEADER = {
  'command': 'pretrain',
  'commit': 'abc123',
  'model': dataclasses.asdict(MODEL),
  'config': {
    'data': {'batch_size': 16},
    'optim': {'peak_lr': 0.002, 'variant': 'paper'},
    'train': {'seed': 4},
  },
}
SCORES = {
  'step': 200,
  'tokens': 39_965,
  'tokens_seen': 204_800,
  'eval_perplexity': 42.104,
  'eval_word_perplexity': 993.9,
}
TOKENIZER = {'kind': 'sentencepiece', 'merges': 500}


def readme(header=HEADER, scores=SCORES, step=200):
  found = Checkpoint({'gpt': {}}, CheckpointMeta(MODEL, 'f'), step)
  return model_card.readme('mini', found, header, scores, TOKENIZER)


def test_figures_of_the_training():
  lines = readme().splitlines()
  for row in (
    '# mini',
    '| parameters | 477,824 |',
    '| updates | 200 |',
    '| commit | abc123 |',
    '| batch | 16 sequences |',
    '| peak learning rate | 0.002 |',
    '| compute dtype | bfloat16 |',
    '| seed | 4 |',
    '| tokens seen | 204,800 |',
    '| perplexity per token | 42.10 |',
    '| perplexity per word | 993.90 |',
  ):
    assert row in lines
  assert 'scores measured' not in readme()
  assert lines[0] == '---'
  assert lines.index('---', 1) < lines.index('# mini')


def test_unknown_figures_are_named():
  assert '| scores | not finished |' in readme(scores=None)
  assert '| scores measured after update | 200 |' in readme(step=100)
  text = readme(
    {**HEADER, 'command': 'convert', 'commit': None, 'config': {}}, None, 0
  )
  assert 'pip install transformers torch' in text
  assert '| trained | elsewhere; details unknown |' in text
  assert '| commit | unknown |' in text
