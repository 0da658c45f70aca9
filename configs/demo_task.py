r"""The demo's task: choose which of two passages continues a text.

launch/demo.py creates the task's files and runs:

  python -m gpt1_jax.finetune --config=configs/demo_task.py \
    --config.init_from=runs/demo/pretrain --config.data.path=runs/demo/task \
    --workdir=runs/demo/pretrained
"""

import ml_collections

from configs import finetune


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  return finetune.get_config(arg, task={'name': 'demo', 'kind': 'choice'})
