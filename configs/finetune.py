"""Fine-tuning, with the hyperparameters the paper uses for most tasks.

  python -m gpt1_jax.finetune --config=configs/finetune.py:rte \
    --config.init_from=runs/mini --config.data.path=glue/RTE \
    --workdir=runs/rte

`:rte` names the task; own_task.py shows how to define your own. Words after the
task change settings and can be combined (`:cola,no_aux,tiny`):

  mini     rate and epochs for a small model that has read little text, such as
           models/mini (docs/results/README.md has the search)
  openai   reproduces the released code (docs/reference.md §2, §3)
  tiny     20 updates, seconds on a CPU, to check that everything works
  scratch  no pretraining (P Table 5): random weights, with the model shape and
           tokenizer of the run --config.like=runs/mini
  no_aux   no auxiliary LM loss (P Table 5): lambda is 0
  lstm     for a run of `pretrain --config=configs/pretrain.py:lstm` (P Table 5)

--config.transfer.layers=K copies the embeddings and the first K blocks of the
pretrained run; the rest is initialised randomly (P §5, Figure 2 left).
launch/sweep.py runs a grid of these.

`:all` runs the paper's twelve tasks in turn, each in WORKDIR/TASK, and skips
finished ones. --config.train.seeds=10 runs ten seeds (the released code reports
the median of ten).

config.data.path is the folder, zip or tar of the task's original files, or a
folder that contains several of these. `tfds` downloads the task with TFDS to
TFDS's default folder, `tfds:FOLDER` to another.

The paper uses the same hyperparameters for most tasks (P §4.1: learning rate
6.25e-5, batch 32, 3 epochs, lambda 0.5, warm-up over 0.2% of the updates). Its
scores are listed here; most are on hidden test sets. The full-size model was
not run here.

  snli         89.9         accuracy, test           P §4.2, Table 2
  mnli         82.1 / 81.4  accuracy, test           P §4.2, Table 2
  qnli         88.1         accuracy, test           P §4.2, Table 2
  rte          56.0         accuracy, test           P §4.2, Table 2
  scitail      88.3         accuracy, test           P §4.2, Table 2
  race         59.0         accuracy, test           P §4.2, Table 3
  race_middle  62.9         (`race` scores both halves as well)
  race_high    57.4
  story_cloze  86.5         accuracy, test           P §4.2, Table 3
  mrpc         82.3         F1, test                 P §4.2, Table 4
  qqp          70.3         F1, test                 P §4.2, Table 4
  stsb         82.0         Pearson, test            P §4.2, Table 4
  sst2         91.3         accuracy, test           P §4.2, Table 4
  cola         45.4         Matthews, test           P §4.2, Table 4
  wnli         -            not in the paper

Each line cites its source: P is the paper, C the released code.
gpt1_jax/config.py and gpt1_jax/settings.py document every key and its values.
"""

import copy
from typing import Any

import ml_collections

# `task` may also be a mapping that defines a task: see own_task.py.
PAPER: dict[str, Any] = {
  'task': None,
  'init_from': None,  # a pretraining run, or 'none' for random weights
  'like': '',  # from scratch: the run that provides shape and tokenizer
  'transfer': {'layers': -1},  # blocks copied from the run; -1: all
  'model': {  # the pretrained run sets the shape
    'kind': 'gpt',
    'embd_pdrop': 0.1,  # P §4.1, "reuse the settings"
    'attn_pdrop': 0.1,
    'resid_pdrop': 0.1,
    'embedding_dropout': 'sum',  # P §4.1; C: 'matrix'
    'softmax_rows': 'tokens',  # P §3.1; C: 'all'
    'dtype': 'float32',  # compute dtype; or 'bfloat16'
  },
  'head': {
    'clf_pdrop': 0.1,  # P §4.1: dropout on the classifier
    'lm_coef': 0.5,  # P §3.2, §4.1: lambda
    # P §3.2: L1 as in pretraining, a mean over tokens (a plain sum would
    # outweigh the task loss); C: 'sequences', a mean of the sequences' means.
    'lm_reduction': 'tokens',
    # For stsb: 'scalar', squared error; or 'classes', cross-entropy over 0..5
    # with the score split between its two neighbours. P does not say.
    'regression': 'scalar',
  },
  'optim': {
    'variant': 'paper',  # or 'openai': docs/reference.md §3
    'schedule': 'linear',  # P §4.1: linear decay
    'peak_lr': 6.25e-5,  # P §4.1
    'warmup': 0.002,  # P §4.1: 0.2% of the updates
    'b1': 0.9,  # C
    'b2': 0.999,  # C
    'eps': 1e-8,  # C
    'weight_decay': 0.01,  # P §4.1, decoupled
    'clip_norm': 1.0,  # C; P does not say
  },
  'train': {
    'num_epochs': 3,  # P §4.1; 0 means unset
    'num_steps': 0,  # 0 means unset; set exactly one of the two
    'log_every': 10,
    'eval_every': 0,  # updates; 0 means after each epoch
    'patience': 0,  # evaluations without a better dev score; 0: to the end
    'checkpoint_minutes': 10.0,  # longest time between saves; 0: no limit
    'skip_nonfinite': 0,  # updates to skip if loss is NaN or infinite
    'wandb': '',  # project of Weights & Biases; '': none
    'stall_minutes': 30.0,  # then exits with 75; 0: never
    'keep': 1,
    'microbatches': 1,
    'seed': 0,
    'seeds': 1,  # number of runs; each adds 1 to train.seed and data.seed
  },
  'data': {
    'path': None,  # see above
    'batch_size': 32,  # P §4.1
    'seed': 0,
    # Lengths to compile for; a batch is padded to the shortest that fits.
    'lengths': (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    # P does not say. 'room' cuts only sequences that do not fit; C: 'halves'
    # cuts each text of a pair to n_ctx // 2 - 2. C drops the last, partial
    # batch of an epoch.
    'truncation': 'room',
    'drop_last': False,
  },
  'mesh': {
    'data': -1,  # -1: all remaining devices
    'fsdp': 1,
    'tensor': 1,
    'shard_optimizer': False,  # True: Adam's moments over data, too (ZeRO-1)
    'reduce_dtype': 'float32',  # of gradients that devices sum
  },
}
# The settings that each word changes.
WORDS: dict[str, dict[str, Any]] = {
  # P Table 5: "w/o pre-training". `like` has to be given.
  'scratch': {'init_from': 'none', 'like': None},
  'no_aux': {'head.lm_coef': 0.0},  # P Table 5: "w/o aux LM"
  'lstm': {  # P Table 5: "LSTM w/ aux LM"; P gives no dropout rates
    'model': {
      'kind': 'lstm',
      'embd_pdrop': 0.1,
      'output_pdrop': 0.1,
      'dtype': 'float32',
    }
  },
  # Departs from the paper, as found for models/mini (docs/results/README.md).
  'mini': {'optim.peak_lr': 5e-4, 'train.num_epochs': 10},
  'openai': {
    'model.embedding_dropout': 'matrix',  # C: train.py
    'model.softmax_rows': 'all',  # C: train.py
    'head.lm_reduction': 'sequences',  # C: train.py
    'optim.variant': 'openai',  # C: opt.py
    'data.truncation': 'halves',  # C: train.py
    'data.drop_last': True,  # C: train.py
  },
  'tiny': {
    'train.num_epochs': 0,
    'train.num_steps': 20,
    'train.log_every': 1,
    'data.batch_size': 8,
  },
}


def get_config(
  arg: str = '', task: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """Returns the configuration of `TASK[,WORD...]`.

  Args:
    arg: the task and words; only words if `task` is given.
    task: fields of a user-defined task.

  Raises:
    ValueError: there are two tasks, or words that exclude each other.
  """
  words = [word for word in arg.split(',') if word]
  names = [word for word in words if word not in WORDS]
  if len(names) > (0 if task else 1):
    raise ValueError(
      f'{arg!r}: give one task, optionally followed by ' + ', '.join(WORDS)
    )
  if {'openai', 'lstm'} <= set(words):
    raise ValueError(f'{arg!r}: the released code has no LSTM')
  values = copy.deepcopy(PAPER)
  values['task'] = task or (names[0] if names else None)
  for word, changes in WORDS.items():
    for key, value in changes.items() if word in words else ():
      section, _, name = key.rpartition('.')
      (values[section] if section else values)[name] = value
  return ml_collections.ConfigDict(values)
