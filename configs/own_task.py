"""A user-defined task: a folder of JSON lines or tables, and a short config.

  python -m gpt1_jax.finetune --config=configs/own_task.py:mini \
    --config.init_from=runs/mini --config.data.path=my_task \
    --workdir=runs/my_task

Words after the colon are those of finetune.py, such as `mini` for small models.

my_task/ holds train.jsonl, dev.jsonl and optionally test.jsonl:
  {"text": "The plot drags.", "label": "bad"}
or the same as a table with a header: train.csv (cells may be quoted) or
train.tsv (quotes are part of the text).

Text pairs: use kind 'entailment' (one order) or 'similarity' (both orders), and
add a column `text_pair`. Multiple choice: use kind 'choice' without labels, add
"choices": ["...", "..."] (JSON only), and give the 0-based index of the right
one as `label`. Regression: use metrics ('pearson', 'spearman') without labels.

`python -m gpt1_jax.predict --workdir=runs/my_task --input=new.jsonl` labels new
texts.
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
