"""Pretraining: the recipe of GPT-1, and smaller ones on the same path.

  python -m gpt1_jax.pretrain --config=configs/pretrain.py:PRESET \
    --workdir=runs/PRESET --config.data.path=DIR   # DIR from `prepare`

PRESET is one of
  paper   the paper's words (the default). 116.5M parameters with the 40,478
          entries of the released vocabulary; perplexity 18.4 on BooksCorpus
          after a month on 8 P600 GPUs (P §4.1, blog). Here: not run in full.
  openai  the released code's departures from them (REFERENCE §3).
  mini    10M parameters, context 256: half an hour on two CPU cores for one
          epoch of 7M words; the README has its figures.
  tiny    half a million parameters: seconds, to see that all is in place.
  lstm    the LSTM of P §5 and Table 5 in the place of the GPT, one layer of
          2,048 units: 55.7M parameters, not run in full. `lstm,mini` (1,024
          units, width 384) and `lstm,tiny` (256, 128) are trained as those.

A line cites its source: P the paper, C the released code.
"""

import ml_collections
from ml_collections import config_dict

# What each has that the paper has otherwise.
PRESETS = {
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
    'optim.peak_lr': 1e-3,  # lower loss than 5e-4 at update 400
    'optim.warmup': 200.0,  # no other was compared at this batch
    'train.num_epochs': 1.0,
    'train.log_every': 10,
    'train.eval_every': 400,
    'train.checkpoint_every': 200,
    'data.batch_size': 16,
  },
  'tiny': {
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


def get_config(arg: str = 'paper') -> ml_collections.ConfigDict:
  """The config of `PRESET` or `lstm[,PRESET]`.

  Every key may be changed on the command line.
  """
  words = arg.split(',')
  lstm = 'lstm' in words
  presets = [word for word in words if word != 'lstm'] or ['paper']
  preset = ','.join(presets)
  if preset not in PRESETS:
    raise ValueError(
      f'{preset!r} is no preset of configs/pretrain.py: '
      + ', '.join([*PRESETS, 'lstm', 'lstm,mini', 'lstm,tiny'])
    )
  if lstm and preset == 'openai':
    raise ValueError('the released code has no LSTM: openai does not apply')
  config = ml_collections.ConfigDict()

  config.model = ml_collections.ConfigDict()
  config.model.kind = 'gpt'  # or 'lstm', whose keys are others: see below
  config.model.n_layer = 12  # P §4.1
  config.model.n_head = 12  # P §4.1
  config.model.n_embd = 768  # P §4.1
  config.model.n_ctx = 512  # P §4.1
  config.model.embd_pdrop = 0.1  # P §4.1
  config.model.attn_pdrop = 0.1  # P §4.1
  config.model.resid_pdrop = 0.1  # P §4.1
  config.model.embedding_dropout = 'sum'  # P §4.1; C: 'matrix'
  config.model.softmax_rows = 'tokens'  # P §3.1; C: 'all'
  config.model.dtype = 'float32'  # of the computation; or 'bfloat16'
  config.model.attention = 'auto'  # TPU: a kernel (model/flash.py); or plain
  config.model.remat = 'auto'  # 'dots' if layers are looped over; 'full'
  config.model.unroll = 1  # blocks an iteration of the loop over layers

  config.optim = ml_collections.ConfigDict()
  config.optim.variant = 'paper'
  config.optim.schedule = 'cosine'  # P §4.1
  config.optim.peak_lr = 2.5e-4  # P §4.1
  config.optim.warmup = 2000.0  # P §4.1, updates
  config.optim.b1 = 0.9  # C: opt.py
  config.optim.b2 = 0.999  # C: opt.py
  config.optim.eps = 1e-8  # C: opt.py
  config.optim.weight_decay = 0.01  # P §4.1, decoupled
  config.optim.clip_norm = 1.0  # C: train.py

  config.train = ml_collections.ConfigDict()
  config.train.num_epochs = 100.0  # P §4.1; 0 is unset
  config.train.num_steps = 0  # 0 is unset: exactly one of the two is set
  config.train.log_every = 100
  config.train.eval_every = 10_000
  config.train.checkpoint_every = 2_000
  config.train.keep = 3
  config.train.microbatches = 1
  config.train.seed = 0  # of the initialisation and of dropout

  config.data = ml_collections.ConfigDict()
  config.data.path = config_dict.placeholder(str)  # written by `prepare`
  config.data.batch_size = 64  # P §4.1
  config.data.seed = 0  # of the order
  config.data.cross_documents = True  # windows may span documents

  config.mesh = ml_collections.ConfigDict()
  config.mesh.data = -1  # all devices that the other axes leave
  config.mesh.fsdp = 1
  config.mesh.tensor = 1

  config.update_from_flattened_dict(PRESETS[preset])
  if lstm:
    config.model = _lstm(config.model, preset)
  return config


def _lstm(
  gpt: ml_collections.ConfigDict, preset: str
) -> ml_collections.ConfigDict:
  """config.model of the LSTM that stands in the place of a GPT."""
  model = ml_collections.ConfigDict()
  model.kind = 'lstm'
  # P §5, in the one layer; smaller in the ratio of the widths, about.
  model.units = {'paper': 2048, 'mini': 1024, 'tiny': 256}[preset]
  model.n_embd = gpt.n_embd  # P is silent: as of the GPT, the softmax tied
  model.n_ctx = gpt.n_ctx  # P §5: the same framework
  model.embd_pdrop = gpt.embd_pdrop
  model.output_pdrop = gpt.resid_pdrop
  model.dtype = 'float32'  # bfloat16 took twice as long on a CPU (`mini`)
  return model
