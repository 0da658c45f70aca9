r"""The task of the demo: which of two passages goes on with the text.

Run by launch/demo.py, which makes the task's files and passes the rest:
  python -m gpt1_jax.finetune --config=configs/demo_task.py \
    --config.init_from=runs/demo/pretrain --config.data.path=runs/demo/task \
    --workdir=runs/demo/pretrained
"""

import ml_collections

from configs import finetune


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  return finetune.get_config(arg, task={'name': 'demo', 'kind': 'choice'})
