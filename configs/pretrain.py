"""Pretraining: GPT-1's recipe and smaller presets.

  python -m gpt1_jax.pretrain --config=configs/pretrain.py:PRESET \
    --workdir=runs/PRESET --config.data.path=DIR   # DIR from `prepare`

PRESET is one of
  paper   follows the paper literally (the default): 116.5M parameters with the
          released vocabulary of 40,478 tokens; perplexity 18.4 on BooksCorpus
          after a month on 8 P600 GPUs (P §4.1, blog). Not run in full here.
  openai  follows the released code where it differs (docs/reference.md §3).
  mini    10M parameters, context 256: half an hour on two CPU cores for one
          epoch of 7M words; the README reports results.
  tiny    half a million parameters: under a minute, to check that everything
          works. Departs from the paper: its initial weights know how frequent
          each token is, and which tokens stand beside which; from the paper's,
          200 updates teach the frequencies only.
  record  `mini` changed for launch/record.py: batches of 8, float32, no
          dropout, and initial weights as those of `tiny`. Departs from the
          paper.
  demo    `tiny` for 700 updates: `make demo`, 75 s on a CPU core.
  lstm    the LSTM of P §5 and Table 5 instead of the GPT: one layer of 2,048
          units, 55.7M parameters. Not run in full here. `lstm,mini` (1,024
          units, width 384) and `lstm,tiny` (256, 128) train like those presets,
          from init_from=none.

Each line cites its source: P is the paper, C the released code.
gpt1_jax/config.py and gpt1_jax/settings.py document every key and its values.
"""

import copy
from typing import Any

import ml_collections

PAPER: dict[str, Any] = {
  'init_from': 'none',  # P §4.1; 'frequencies', 'neighbours', or a folder
  'model': {
    'kind': 'gpt',  # or 'lstm', whose keys differ: see below
    'n_layer': 12,  # P §4.1
    'n_head': 12,  # P §4.1
    'n_embd': 768,  # P §4.1
    'n_ctx': 512,  # P §4.1
    'embd_pdrop': 0.1,  # P §4.1
    'attn_pdrop': 0.1,  # P §4.1
    'resid_pdrop': 0.1,  # P §4.1
    'embedding_dropout': 'sum',  # P §4.1; C: 'matrix'
    'softmax_rows': 'tokens',  # P §3.1; C: 'all'
    'dtype': 'float32',  # compute dtype; or 'bfloat16'
    'attention': 'auto',  # the kernel in model/flash.py on a TPU, else plain
    'remat': 'auto',  # 'dots', but 'none' unrolled on a CPU
    'unroll': 1,  # blocks per iteration of the layer loop
  },
  'optim': {
    'variant': 'paper',
    'schedule': 'cosine',  # P §4.1
    'peak_lr': 2.5e-4,  # P §4.1
    'warmup': 2000.0,  # P §4.1, updates
    'b1': 0.9,  # C: opt.py
    'b2': 0.999,  # C: opt.py
    'eps': 1e-8,  # C: opt.py
    'weight_decay': 0.01,  # P §4.1, decoupled
    'clip_norm': 1.0,  # C: train.py
  },
  'train': {
    'num_epochs': 100.0,  # P §4.1; 0 means unset
    'num_steps': 0,  # 0 means unset; set exactly one of the two
    'log_every': 100,
    'eval_every': 10_000,
    'checkpoint_every': 2_000,
    'sample_tokens': 64,  # of text drawn at each evaluation; 0: none
    'checkpoint_minutes': 10.0,  # longest time between saves; 0: no limit
    'skip_nonfinite': 0,  # updates to skip if loss is NaN or infinite
    'wandb': '',  # project of Weights & Biases; '': none
    'stall_minutes': 30.0,  # then exits with 75; 0: never
    'keep': 3,
    'microbatches': 1,
    'seed': 0,  # seeds the initial weights and dropout
  },
  'data': {
    'path': None,  # folder written by `prepare`
    'batch_size': 64,  # P §4.1
    'seed': 0,  # shuffles the windows
    'cross_documents': True,  # windows may span documents
  },
  'mesh': {
    'data': -1,  # -1: all remaining devices
    'fsdp': 1,
    'tensor': 1,
    'shard_optimizer': False,  # True: Adam's moments over data, too (ZeRO-1)
    'reduce_dtype': 'float32',  # of gradients that devices sum
  },
}
# The settings that each preset changes.
PRESETS: dict[str, dict[str, Any]] = {
  'paper': {},
  'openai': {
    'model.embedding_dropout': 'matrix',  # C: train.py
    'model.softmax_rows': 'all',  # C: train.py
    'optim.variant': 'openai',  # C: opt.py
  },
  'mini': {
    'model.n_layer': 4,
    'model.n_head': 6,
    'model.n_embd': 384,
    'model.n_ctx': 256,
    'model.unroll': 4,
    'model.dtype': 'bfloat16',
    'optim.peak_lr': 1e-3,  # reached a lower loss than 5e-4 at update 400
    'optim.warmup': 200.0,  # not tuned
    'train.num_epochs': 1.0,
    'train.log_every': 10,
    'train.eval_every': 400,
    'train.checkpoint_every': 200,
    'data.batch_size': 16,
  },
  'tiny': {
    'init_from': 'neighbours',
    'model.n_layer': 2,
    'model.n_head': 4,
    'model.n_embd': 128,
    'model.n_ctx': 64,
    'model.unroll': 2,
    'optim.peak_lr': 2e-3,
    'optim.warmup': 20.0,
    'train.num_epochs': 0.0,
    'train.num_steps': 200,
    'train.log_every': 10,
    'train.eval_every': 100,
    'train.checkpoint_every': 100,
    'data.batch_size': 16,
  },
}
PRESETS['record'] = PRESETS['mini'] | {
  'init_from': 'neighbours',
  'model.embd_pdrop': 0.0,  # one epoch cannot overfit
  'model.attn_pdrop': 0.0,
  'model.resid_pdrop': 0.0,
  'model.dtype': 'float32',  # bfloat16 is slower without AMX
  'optim.warmup': 100.0,
  'train.num_epochs': 0.0,
  'train.num_steps': 2600,
  'train.eval_every': 2600,
  'train.checkpoint_every': 2600,
  'data.batch_size': 8,
}
# With init_from 'none', 1,200 updates at 2e-3 ended at 58.4, not 56.3.
PRESETS['demo'] = PRESETS['tiny'] | {
  'optim.peak_lr': 3e-3,
  'optim.warmup': 50.0,
  'train.num_steps': 700,
  'train.log_every': 20,
  'train.eval_every': 200,
  'train.checkpoint_every': 400,
}


# LSTM units: 2,048 (P §5), scaled down roughly with the model's width.
UNITS = {'paper': 2048, 'mini': 1024, 'tiny': 256, 'demo': 256}


def get_config(arg: str = 'paper') -> ml_collections.ConfigDict:
  """Returns the configuration of `PRESET` or `lstm[,PRESET]`.

  Raises:
    ValueError: the preset does not exist.
  """
  words = arg.split(',')
  presets = [word for word in words if word != 'lstm'] or ['paper']
  preset = ','.join(presets)
  if preset not in PRESETS:
    raise ValueError(
      f'{preset!r} is not a preset of configs/pretrain.py: '
      + ', '.join([*PRESETS, 'lstm', 'lstm,mini', 'lstm,tiny'])
    )
  if 'lstm' in words and preset not in UNITS:
    raise ValueError(f'{preset} has no LSTM; use ' + ', '.join(UNITS))
  values = copy.deepcopy(PAPER)
  for key, value in PRESETS[preset].items():
    *section, name = key.split('.')
    (values[section[0]] if section else values)[name] = value
  if 'lstm' in words:
    values['init_from'] = 'none'  # the others need the GPT's last norm
    gpt = values['model']
    values['model'] = {
      'kind': 'lstm',
      'units': UNITS[preset],
      'n_embd': gpt['n_embd'],  # P does not say; as in the GPT, tied softmax
      'n_ctx': gpt['n_ctx'],  # P §5: the same framework
      'embd_pdrop': gpt['embd_pdrop'],
      'output_pdrop': gpt['resid_pdrop'],
      'dtype': 'float32',  # bfloat16 was half as fast on a CPU (`mini`)
    }
  return ml_collections.ConfigDict(values)
