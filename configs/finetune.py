"""Fine-tuning with the paper's one setting for (nearly) all tasks.

  python -m gpt1_jax.finetune --config=configs/finetune.py:rte \
    --config.init_from=runs/mini --config.data.path=glue/RTE \
    --workdir=runs/rte

`:rte` names the task; a task of your own: see own_task.py. `:rte,openai` does
all as the released code does it (REFERENCE §2, §3); `:rte,tiny` takes 20
updates, seconds on a CPU, to see that all is in place. The ablations of the
paper are words as well, and words combine (`:cola,no_aux,tiny`):

  scratch  no pretraining (P Table 5): the shape and the tokenizer of a run,
           --config.like=runs/mini, and fresh weights
  no_aux   no auxiliary language model (P Table 5): lambda is 0
  lstm     for a run of `pretrain --config=configs/pretrain.py:lstm` (P Table 5)

--config.transfer.layers=K takes the embeddings and K blocks from below of the
pretrained run, the rest is fresh (P §5, Figure 2 left). A grid of these:
launch/sweep.py.

`:all` runs the twelve tasks of the paper in turn, each in WORKDIR/TASK, and
goes on where it stopped. --config.train.seeds=10 runs ten seeds (the released
code reports the median of ten).

config.data.path is the folder, zip or tar of the task's original files, or a
folder that holds such ones; or `tfds`, which downloads the task with TFDS into
its own place, or `tfds:FOLDER`, into another.

The paper takes one setting for all tasks (P §4.1: learning rate 6.25e-5, batch
32, 3 epochs, lambda 0.5, warm-up over 0.2% of the updates). Its scores, most
of them on hidden test sets; the full-size model, pretrained on books for a
month, was not run here:

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
"""

from typing import Any

import ml_collections
from ml_collections import config_dict

WORDS = ('scratch', 'no_aux', 'lstm', 'openai', 'tiny')


def get_config(
  arg: str = '', task: dict[str, Any] | None = None
) -> ml_collections.ConfigDict:
  """The config of `TASK[,WORD...]`, or of `task`, fields of one's own.

  Every number 0 that reads "unset" or "each epoch" may be given on the command
  line.
  """
  words = [word for word in arg.split(',') if word]
  names = [word for word in words if word not in WORDS]
  if len(names) > (0 if task else 1):
    raise ValueError(
      f'{arg!r}: one task is wanted, and perhaps words: ' + ', '.join(WORDS)
    )
  if {'openai', 'lstm'} <= set(words):
    raise ValueError(f'{arg!r}: the released code has no LSTM')

  config = ml_collections.ConfigDict()
  if task:
    config.task = ml_collections.ConfigDict(task)
  else:
    config.task = config_dict.placeholder(str)
    config.task = names[0] if names else None
  config.init_from = config_dict.placeholder(str)  # a pretraining run, or none
  config.like = ''  # from scratch: the run whose shape and tokenizer to take

  config.transfer = ml_collections.ConfigDict()
  # Blocks taken from the run, from below, above its embeddings; -1: all.
  config.transfer.layers = -1

  config.model = ml_collections.ConfigDict()  # the shape is the run's
  config.model.kind = 'gpt'
  config.model.embd_pdrop = 0.1  # P §4.1, "reuse the settings"
  config.model.attn_pdrop = 0.1
  config.model.resid_pdrop = 0.1
  config.model.embedding_dropout = 'sum'  # P §4.1; C: 'matrix'
  config.model.softmax_rows = 'tokens'  # P §3.1; C: 'all'
  config.model.dtype = 'float32'  # of the computation; or 'bfloat16'

  config.head = ml_collections.ConfigDict()
  config.head.clf_pdrop = 0.1  # P §4.1: dropout on the classifier
  config.head.lm_coef = 0.5  # P §3.2, §4.1: lambda
  # P §3.2: L1 as in pretraining, a mean over tokens (as a plain sum it would
  # drown the task); C: 'sequences', a mean over sequences of their means.
  config.head.lm_reduction = 'tokens'
  # stsb: 'scalar', squared error; or 'classes', cross-entropy over 0..5 with
  # the score spread over its two neighbours. P is silent.
  config.head.regression = 'scalar'

  config.optim = ml_collections.ConfigDict()
  config.optim.schedule = 'linear'  # P §4.1: linear decay
  config.optim.peak_lr = 6.25e-5  # P §4.1
  config.optim.warmup = 0.002  # P §4.1: 0.2% of the updates
  config.optim.b1 = 0.9  # C
  config.optim.b2 = 0.999  # C
  config.optim.eps = 1e-8  # C
  config.optim.weight_decay = 0.01  # P §4.1, decoupled
  config.optim.clip_norm = 1.0  # C, P is silent
  config.optim.variant = 'paper'  # or 'openai': REFERENCE §3

  config.train = ml_collections.ConfigDict()
  config.train.num_epochs = 3  # P §4.1; 0 is unset
  config.train.num_steps = 0  # 0 is unset: exactly one of the two is set
  config.train.log_every = 10
  config.train.eval_every = 0  # updates; 0 is each epoch
  config.train.keep = 1
  config.train.microbatches = 1
  config.train.seed = 0
  config.train.seeds = 1  # runs; the next takes the next train.seed, data.seed

  config.data = ml_collections.ConfigDict()
  config.data.path = config_dict.placeholder(str)  # see above
  config.data.batch_size = 32  # P §4.1
  config.data.seed = 0
  # Widths that are compiled; a batch takes the least that holds it.
  config.data.lengths = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
  # P is silent on both. 'room' cuts only what does not fit; C: 'halves', each
  # text of a pair to n_ctx // 2 - 2. C: drops the last, partial batch of an
  # epoch.
  config.data.truncation = 'room'
  config.data.drop_last = False

  config.mesh = ml_collections.ConfigDict()
  config.mesh.data = -1  # all devices the other axes leave
  config.mesh.fsdp = 1
  config.mesh.tensor = 1

  if 'scratch' in words:
    config.init_from = 'none'  # P Table 5: "w/o pre-training"
  if 'no_aux' in words:
    config.head.lm_coef = 0.0  # P Table 5: "w/o aux LM"
  if 'lstm' in words:  # P Table 5: "LSTM w/ aux LM"
    config.model = ml_collections.ConfigDict()
    config.model.kind = 'lstm'
    config.model.embd_pdrop = 0.1  # P is silent: as of the GPT
    config.model.output_pdrop = 0.1
    config.model.dtype = 'float32'
  if 'openai' in words:
    config.model.embedding_dropout = 'matrix'  # C: train.py
    config.model.softmax_rows = 'all'  # C: train.py
    config.head.lm_reduction = 'sequences'  # C: train.py
    config.optim.variant = 'openai'  # C: opt.py
    config.data.truncation = 'halves'  # C: train.py
    config.data.drop_last = True  # C: train.py
  if 'tiny' in words:
    config.train.num_epochs = 0
    config.train.num_steps = 20
    config.train.log_every = 1
    config.data.batch_size = 8
  return config
