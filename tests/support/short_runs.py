"""Gives the flags of a pretraining run that takes seconds."""

import pathlib

from tests.support import commands

_TINY = (
  '--config=configs/pretrain.py:tiny',
  '--config.model.n_layer=1',
  '--config.model.n_embd=32',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=4',
  '--config.train.num_steps=400',
  '--config.train.eval_every=200',
  '--config.train.checkpoint_every=1000',
  '--config.train.log_every=20',
)


def prepare(folder: pathlib.Path) -> pathlib.Path:
  """Prepares four made-up texts in `folder`; returns the output."""
  for number in range(4):
    text = ' '.join(f'word{i * number % 97} of it.' for i in range(4000))
    (folder / f'{number}.txt').write_text(text)
  output = folder / 'shards'
  commands.succeed(
    'prepare',
    f'--input={folder}/*.txt',
    f'--output={output}',
    '--merges=40',
    '--workers=1',
    '--validation_fraction=0',
    '--hold_out=*/3.txt',
  )
  return output


def options(data: pathlib.Path, workdir: pathlib.Path) -> tuple[str, ...]:
  """Returns the flags of `pretrain`."""
  return (*_TINY, f'--config.data.path={data}', f'--workdir={workdir}')
