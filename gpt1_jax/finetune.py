r"""Fine-tunes a pretrained GPT-1 on a task (P §3.2, §3.3, §4.1).

  python -m gpt1_jax.finetune --config=configs/finetune.py:rte \
      --config.init_from=runs/mini --config.data.path=glue/RTE \
      --workdir=runs/rte

From scratch, with the shape and the tokenizer of a run, for comparison:
--config.init_from=none --config.like=runs/mini. Started again with the same
--workdir, it goes on from the last checkpoint. The best checkpoint on the dev
set is kept; results are in WORKDIR/scores.json, predictions/*.tsv and
metrics.jsonl.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from gpt1_jax import command
from gpt1_jax.data import (
  examples as examples_lib,
  features as features_lib,
  sources,
  tasks,
  tokenizer as tokenizer_lib,
)
from gpt1_jax.errors import UserError
from gpt1_jax.model import gpt, heads
from gpt1_jax.train import (
  checkpoint,
  loop,
  metrics as metrics_lib,
  optim,
  run,
  sharding,
  step as step_lib,
  telemetry,
)

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  'configs/finetune.py',
  'Configuration file, with a task: configs/finetune.py:rte.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run: made if absent, gone on from if it holds this run.',
  required=True,
)

SECTIONS = (
  'task',
  'init_from',
  'like',
  'dtype',
  'head',
  'dropout',
  'optim',
  'train',
  'data',
  'mesh',
)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """config.train of fine-tuning."""

  num_steps: int
  num_epochs: float
  log_every: int
  eval_every: int
  keep: int
  microbatches: int
  seed: int


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """config.data of fine-tuning."""

  path: str
  batch_size: int
  seed: int
  lengths: tuple[int, ...]


def main(argv: list[str]) -> None:
  del argv
  command.keep_memory()
  finetune(_CONFIG.value.to_dict(), _WORKDIR.value)


def finetune(config: dict[str, Any], workdir: str) -> dict[str, Any]:
  """Fine-tunes and scores; returns what scores.json holds."""
  parts = command.sections(config, *SECTIONS)
  settings = command.fill('train', TrainSettings, parts['train'])
  data = command.fill('data', DataSettings, parts['data'])
  command.positive('train', parts['train'], 'log_every', 'keep', 'microbatches')
  # 1. The task, and the run whose shape (and weights) are taken.
  task = tasks.resolve(config['task'])
  source, pretrained, model_config = _source(config)
  tokenizer = tokenizer_lib.load(source)
  batches = {}
  for split in ('train', *task.dev_splits):
    if split not in ('train', 'dev') and not sources.has(
      task, data.path, split
    ):
      continue
    examples = examples_lib.read(task, data.path, split)
    batches[split] = features_lib.Batches(
      features_lib.build(task, examples, tokenizer, model_config.n_ctx),
      data.batch_size,
      data.seed,
      data.lengths,
      train=split == 'train',
      host_index=jax.process_index(),
      host_count=jax.process_count(),
    )
  # 2. Everything that can be refused is refused before any computation.
  num_steps = command.num_steps(
    settings.num_steps, settings.num_epochs, batches['train'].steps_per_epoch
  )
  mesh = command.fill('mesh', sharding.make_mesh, parts['mesh'])
  optimizer, rate = command.fill(
    'optim', optim.make_optimizer, parts['optim'], num_steps=num_steps
  )
  sharding.check_divides(
    mesh,
    data.batch_size,
    settings.microbatches,
    n_embd=model_config.n_embd,
    n_head=model_config.n_head,
  )
  head_config = dict(parts['head'])
  lm_coef = head_config.pop('lm_coef', None)
  head = command.fill(
    'head', new_head, head_config, kind=task.kind, num_outputs=task.num_outputs
  )
  run.start(
    workdir,
    'finetune',
    config,
    {
      'model': vars(model_config),
      'parameters': gpt.num_parameters(model_config),
      'num_steps': num_steps,
      'tokenizer_fingerprint': tokenizer.fingerprint,
    },
  )
  tokenizer.save(f'{workdir}/tokenizer')
  checkpoints = checkpoint.Checkpoints(
    workdir, keep=settings.keep, keep_best=True
  )
  with sharding.use(mesh):
    # 3. State: fresh, then the pretrained weights, then this run's own.
    model = gpt.GPT(model_config)
    state, shardings = sharding.init_state(
      functools.partial(new_state, model, head, optimizer, settings.seed), mesh
    )
    if checkpoints.latest_step is not None:
      state = checkpoints.restore(checkpoints.latest_step, state)
    elif pretrained is not None:
      state = state.replace(params=transfer(pretrained, state.params))
    loss_fn = step_lib.finetune_loss(model, head, lm_coef)
    outputs = outputs_fn(loss_fn, mesh)
    log = telemetry.Telemetry(
      workdir,
      start_step=int(state.step),
      num_steps=num_steps,
      flops_per_token=gpt.flops_per_token(model_config),
      label=f'finetune {task.name}',
    )
    metric = task.metrics[0]
    state, _ = loop.fit(
      state,
      step_lib.jit_train_step(
        loss_fn,
        optimizer,
        rate,
        shardings,
        sharding.batch_sharding(mesh),
        microbatches=settings.microbatches,
        seed=settings.seed,
      ),
      mesh=mesh,
      batch_fn=batches['train'].batch,
      num_steps=num_steps,
      log_every=settings.log_every,
      eval_every=settings.eval_every or batches['train'].steps_per_epoch,
      checkpoint_every=settings.eval_every or batches['train'].steps_per_epoch,
      evaluate=lambda params: {
        f'eval_{name}': value
        for name, value in score(
          task, batches['dev'], outputs(params, batches['dev'])
        ).items()
      },
      best_metric=f'eval_{metric}',
      checkpoints=checkpoints,
      meta={
        'model': vars(model_config),
        'tokenizer_fingerprint': tokenizer.fingerprint,
        'task': task.name,
      },
      log=log,
    )
    log.close()
    checkpoints.close()
    # 4. Scores and predictions of the best checkpoint.
    best, _, best_step = checkpoint.read(workdir)
    best = sharding.like(best, state.params)
    scores: dict[str, Any] = {}
    for split in batches:
      if split != 'train':
        values = outputs(best, batches[split])
        scores[split] = score(task, batches[split], values)
        if jax.process_index() == 0:
          write_predictions(workdir, task, split, batches[split], values)
  result = {
    'task': task.name,
    'kind': task.kind,
    'split': 'dev',
    'examples': batches['dev'].features.num_examples,
    'metric': metric,
    'score': scores['dev'][metric],
    'metrics': scores['dev'],
    'splits': scores,
    'step': best_step,
    'seed': settings.seed,
    'init_from': config['init_from'],
    'model': vars(model_config),
    'commit': run.commit(),
  }
  if jax.process_index() == 0:
    run.write_json(f'{workdir}/scores.json', result)
    print(
      f'{workdir}: {task.name} dev {metric} {result["score"]:.4f} on '
      f'{result["examples"]} examples, best after {best_step} updates'
    )
  return result


def new_head(*, kind: str, num_outputs: int, clf_pdrop: float) -> heads.Head:
  """The head of a task."""
  return heads.Head(kind, num_outputs, clf_pdrop)


def new_state(
  model: gpt.GPT, head: heads.Head, optimizer: Any, seed: int
) -> step_lib.TrainState:
  """Fresh parameters of model, specials and head, and optimiser state."""
  key = jax.random.key(seed)
  body = model.init(key, jnp.zeros((1, 8), jnp.int32), seed_2=None)
  state_BCD = jnp.zeros((1, 1, model.config.n_embd), jnp.float32)
  top = head.init(
    jax.random.fold_in(key, 1),
    state_BCD,
    seed_2=None,
    rows_B=jnp.zeros(1, jnp.uint32),
  )
  params = {'gpt': body['params'], 'head': top['params']}
  return step_lib.TrainState(
    jnp.zeros([], jnp.int32), params, optimizer.init(params)
  )


def transfer(pretrained: Any, params: Any) -> Any:
  """`params` with the pretrained weights; specials and head stay fresh.

  Args:
    pretrained: of a run, numpy; its embedding has the rows of text.
    params: fresh, of the same shape but for the special rows.
  """
  body = dict(pretrained['gpt'])
  fresh = jax.device_get(params['gpt']['tokens_embed'])
  rows = body['tokens_embed'].shape[0]
  body['tokens_embed'] = np.concatenate([body['tokens_embed'], fresh[rows:]])
  return {**params, 'gpt': sharding.like(body, params['gpt'])}


def outputs_fn(
  loss_fn: step_lib.LossFn, mesh: jax.sharding.Mesh
) -> Callable[[Any, features_lib.Batches], np.ndarray]:
  """(parameters, split) → float32 [N, Y]: each example's outputs, in order."""
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  @functools.partial(jax.jit, out_shardings=replicated)
  def forward(params, batch):
    rows_B = jnp.arange(batch['label'].shape[0], dtype=jnp.uint32)
    _, _, sums = loss_fn(params, batch, None, rows_B)
    return sums['outputs'], batch['index']

  def outputs(params: Any, split: features_lib.Batches) -> np.ndarray:
    out = None
    for step in range(split.steps_per_epoch):
      batch = sharding.put_batch(split.batch(step), mesh)
      values_BY, index_B = jax.device_get(forward(params, batch))
      if out is None:
        shape = (split.features.num_examples, values_BY.shape[1])
        out = np.full(shape, np.nan, np.float32)
      out[index_B[index_B >= 0]] = values_BY[index_B >= 0]
    return out

  return outputs


def predict(task: tasks.Task, outputs_NY: np.ndarray) -> np.ndarray:
  """[N]: the class (or choice) with the largest logit, or the value."""
  return outputs_NY[:, 0] if task.regression else outputs_NY.argmax(axis=1)


def score(
  task: tasks.Task, split: features_lib.Batches, outputs_NY: np.ndarray
) -> dict[str, float]:
  """The task's metrics on a split.

  Raises:
    UserError: an output is not finite.
  """
  if not np.isfinite(outputs_NY).all():
    raise UserError(
      f'task {task.name}: outputs are not finite; try a lower optim.peak_lr'
    )
  return metrics_lib.score(
    task.metrics, split.features.labels, predict(task, outputs_NY)
  )


def write_predictions(
  workdir: str,
  task: tasks.Task,
  split: str,
  batches: features_lib.Batches,
  outputs_NY: np.ndarray,
) -> None:
  """predictions/SPLIT.tsv: index, label, prediction, outputs; atomic."""
  path = pathlib.Path(workdir) / 'predictions' / f'{split}.tsv'
  path.parent.mkdir(exist_ok=True)
  lines = ['index\tlabel\tprediction\toutputs\n']
  for i, (label, value) in enumerate(
    zip(batches.features.labels, predict(task, outputs_NY), strict=True)
  ):
    row = ' '.join(f'{x:.6g}' for x in outputs_NY[i])
    lines.append(f'{i}\t{label}\t{value}\t{row}\n')
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(''.join(lines), encoding='utf-8')
  os.replace(temporary, path)


def _source(config: dict[str, Any]) -> tuple[str, Any, gpt.GPTConfig]:
  """The run that gives shape and tokenizer, its weights or None, the model."""
  scratch = config['init_from'] == 'none'
  source = config['like'] if scratch else config['init_from']
  if not source:
    raise UserError(
      'config.init_from is none: name the run whose shape and tokenizer to '
      'take with --config.like=RUN'
    )
  params, meta, _ = checkpoint.read(source)
  model = {**meta['model'], 'n_special': features_lib.NUM_SPECIALS}
  model['dtype'] = config['dtype']
  for name in ('embd_pdrop', 'attn_pdrop', 'resid_pdrop'):
    if name not in config['dropout']:
      raise UserError(f'config.dropout.{name} is missing')
  model.update(config['dropout'])
  known = {field.name for field in dataclasses.fields(gpt.GPTConfig)}
  for name in config['dropout']:
    if name not in known:
      raise UserError(f'config.dropout.{name}: nothing takes it')
  return source, None if scratch else params, gpt.GPTConfig(**model)


if __name__ == '__main__':
  command.run(main)
