"""The model card says what the run's own files say, and nothing else."""

import json

from gpt1_jax.interop import model_card
from gpt1_jax.settings import GPTConfig

MODEL = GPTConfig(
  kind='gpt',
  n_layer=2, n_head=4, n_embd=128, n_ctx=64, vocab_size=571, n_special=0,
  embd_pdrop=0.1, attn_pdrop=0.1, resid_pdrop=0.1, embedding_dropout='sum',
  softmax_rows='tokens', dtype='bfloat16', attention='auto',
  remat='none', unroll=2,
)  # fmt: skip
FACTS = {
  'command': 'pretrain',
  'commit': 'abc123',
  'model': vars(MODEL),
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


def readme(facts=FACTS, scores=SCORES, step=200, model=MODEL, head=None):
  return model_card.readme('mini', model, facts, scores, TOKENIZER, step, head)


def test_figures_of_the_training():
  lines = readme().splitlines()
  for row in (
    '# mini',
    '| parameters | 477,824 |',
    '| updates | 200 |',
    '| commit | abc123 |',
    '| batch | 16 sequences |',
    '| peak learning rate | 0.002 |',
    '| computed in | bfloat16 |',
    '| seed | 4 |',
    '| tokens seen | 204,800 |',
    '| perplexity a token | 42.10 |',
    '| perplexity a word | 993.90 |',
  ):
    assert row in lines
  assert 'scores are of update' not in readme()
  assert lines[0] == '---'
  assert lines.index('---', 1) < lines.index('# mini')


def test_what_is_not_known_is_said():
  assert '| scores | not finished |' in readme(scores=None)
  assert '| scores are of update | 200 |' in readme(step=100)
  other = {**FACTS, 'command': 'convert', 'commit': None, 'config': {}}
  text = readme(other, None, 0)
  assert '| trained | elsewhere; not known |' in text
  assert '| commit | unknown |' in text


def test_config_holds_what_both_need():
  meta = {'model': vars(MODEL), 'tokenizer_fingerprint': 'f'}
  made = json.loads(json.dumps(model_card.config(MODEL, meta, 'pretrain', 9)))
  assert made['model_type'] == 'openai-gpt'
  assert (made['vocab_size'], made['n_positions']) == (571, 64)
  assert made[model_card.OURS] == {**meta, 'command': 'pretrain', 'step': 9}
  assert GPTConfig(**made[model_card.OURS]['model']) == MODEL
