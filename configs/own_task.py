"""A task of your own: JSON lines in a folder, a few lines of config.

  python -m gpt1_jax.finetune --config=configs/own_task.py \
    --config.init_from=runs/mini --config.data.path=my_task \
    --workdir=runs/my_task

my_task/ holds train.jsonl and dev.jsonl (test.jsonl if you like):
  {"text": "The plot drags.", "label": "bad"}
Two texts: kind 'entailment' (in order) or 'similarity' (both orders), with
`text_pair` beside `text`. Several answers: kind 'choice', no labels, with
"choices": ["...", "..."] and the 0-based number of the right one as `label`.
A number to predict: no labels, metrics ('pearson', 'spearman').
Score to expect: your own; not run.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  task = {
    'name': 'my_task',
    'kind': 'classification',
    'labels': ('bad', 'good'),
    'metrics': ('accuracy',),
  }
  return finetune.get_config(arg, task=task)
