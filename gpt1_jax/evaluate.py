r"""Perplexity of a run on prepared shards.

  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/books
  python -m gpt1_jax.evaluate --workdir=runs/mini --data=data/new --split=train

Without --data, the shards the run was trained on. Every token but the first
is a target exactly once; the perplexity per word divides the same sum by the
number of words, so that vocabularies compare.
"""

import json

import jax
from absl import flags

from gpt1_jax import command, hosts
from gpt1_jax.data import shards, tokenizer as tokenizer_lib, windows
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt
from gpt1_jax.train import checkpoint, perplexity, run, sharding

_WORKDIR = flags.DEFINE_string('workdir', None, 'A run.', required=True)
_DATA = flags.DEFINE_string(
  'data', None, 'Prepared shards; default: those of the run.'
)
_SPLIT = flags.DEFINE_enum(
  'split', 'validation', shards.SPLITS, 'Which part of them.'
)
_BATCH = flags.DEFINE_integer('batch_size', 32, 'Windows at a time.')
_STEP = flags.DEFINE_integer(
  'checkpoint', None, 'Which checkpoint; default: the best or the latest.'
)


def main(argv: list[str]) -> None:
  del argv
  command.keep_memory()
  with hosts.connected():
    _evaluate()


def _evaluate() -> None:
  if _BATCH.value < 1:
    raise UserError(f'--batch_size is {_BATCH.value}: at least 1')
  data = _DATA.value or _trained_on(_WORKDIR.value)
  params, meta, step = checkpoint.read(_WORKDIR.value, _STEP.value)
  facts = shards.read_meta(data)['splits'][_SPLIT.value]
  if tokenizer_lib.load(data).fingerprint != meta['tokenizer_fingerprint']:
    raise UserError(
      f'{data}: made with another tokenizer than {_WORKDIR.value} was trained '
      f'with; prepare it with --tokenizer={_WORKDIR.value}'
    )
  config = gpt.GPTConfig(**meta['model'])
  mesh = sharding.make_mesh(jax.devices(), data=-1, fsdp=1, tensor=1)
  batch_size = _BATCH.value * jax.device_count()
  split = windows.Windows(
    data,
    _SPLIT.value,
    n_ctx=config.n_ctx,
    batch_size=batch_size,
    cross_documents=True,
    seed=None,
    rows=sharding.host_rows(mesh, batch_size),
  )
  with sharding.use(mesh):
    evaluate = perplexity.perplexity_fn(
      gpt.GPT(config), mesh, split, facts['words']
    )
    whole = sharding.replicated(mesh)
    scores = evaluate(
      {'gpt': jax.tree.map(lambda x: sharding.put(x, whole), params['gpt'])}
    )
  if jax.process_index() == 0:
    print(
      json.dumps(
        {'data': data, 'split': _SPLIT.value, 'step': step, **facts, **scores}
        | {'shards': len(facts['shards'])}
      )
    )


def _trained_on(workdir: str) -> str:
  settings = run.load(workdir)['config']
  if 'data' not in settings:
    raise UserError(
      f'{workdir}: was not trained here; name prepared shards with --data'
    )
  return settings['data']['path']


if __name__ == '__main__':
  command.run(main)
