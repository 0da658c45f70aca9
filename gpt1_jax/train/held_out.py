"""Scores a trained run on held-out text: perplexity and bits per byte."""

import dataclasses
import sys

import jax

from gpt1_jax.corpus import (
  shards as shards_lib,
  tokenization,
  verification,
  windows,
)
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.train import (
  belonging,
  checkpoint,
  hosts,
  perplexity,
  run,
  sharding,
)


@dataclasses.dataclass(frozen=True)
class Shards:
  """Names a split of prepared shards.

  Attributes:
    data: their folder; may be in a bucket.
    split: 'train' or 'validation'.
    stage_to: local folder for copies of data from a bucket.
  """

  data: str
  split: str
  stage_to: str


def shards_of(workdir: str) -> str:
  """Returns the folder of the shards that a run was trained on.

  Raises:
    UserError: it is unknown.
  """
  header = run.load(workdir)
  data = {} if header['command'] == 'convert' else header['config']['data']
  if not data.get('path'):
    raise UserError(f'{workdir}: was not trained here; set --data=SHARDS')
  return data['path']


def score(
  workdir: str, step: int | None, shards: Shards, batch_size: int
) -> dict[str, object]:
  """Returns the scores of a run, with what they were measured on.

  Args:
    step: checkpoint; None takes the best, else the latest.
    batch_size: windows per device in a batch.

  Raises:
    UserError: the run or the shards cannot be read, or their tokenizers differ.
  """
  params, meta, step = checkpoint.read(workdir, step)
  folder = shards_lib.fetch(shards.data, shards.stage_to)
  corpus = shards_lib.read_meta(folder)
  tokenizer = belonging.tokenizer(workdir, meta)
  if tokenization.load(folder).fingerprint != tokenizer.fingerprint:
    raise UserError(
      f'{shards.data}: its tokenizer differs from that of {workdir}; '
      f'prepare it with --tokenizer={workdir}'
    )
  counts = corpus['splits'][shards.split]
  hosts.agree({f'data in {shards.data}': verification.fingerprint(corpus)})
  if 'bytes' not in counts:
    print(
      f'{shards.data}: prepared before bytes were counted; prepare it again '
      'for bits per byte',
      file=sys.stderr,
    )
  mesh = sharding.make_mesh(jax.devices())
  batch_size *= jax.device_count()
  batches = windows.Windows(
    shards_lib.Tokens(folder, shards.split),
    n_ctx=meta.model.n_ctx,
    batch_size=batch_size,
    cross_documents=True,
    seed=None,
    rows=sharding.host_rows(mesh, batch_size),
  )
  with sharding.use(mesh):
    evaluate = perplexity.perplexity_fn(
      models.new(meta.model), mesh, batches, counts
    )
    scores = evaluate({'gpt': sharding.replicate(params['gpt'], mesh)})
  measured = {'data': shards.data, 'split': shards.split, 'step': step}
  return {**measured, **counts, **scores, 'shards': len(counts['shards'])}
