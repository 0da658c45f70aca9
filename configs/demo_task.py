r"""The demo's task: choose which of two passages continues a text.

launch/demo.py creates the task's files and runs:

  python -m gpt1_jax.finetune --config=configs/demo_task.py \
    --config.init_from=runs/demo/pretrain --config.data.path=runs/demo/task \
    --workdir=runs/demo/pretrained

and the same from random weights, with --config=configs/demo_task.py:scratch and
--config.like=runs/demo/pretrain.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  config = finetune.get_config(arg, task={'name': 'demo', 'kind': 'choice'})
  # Chosen when pretraining took 1,200 updates: with a rate of 1e-3, or a
  # schedule of 2 epochs, the gap to scratch was smaller.
  config.optim.peak_lr = 6e-4
  config.train.num_epochs = 5
  config.train.patience = 1
  config.data.lengths = (64,)
  return config
