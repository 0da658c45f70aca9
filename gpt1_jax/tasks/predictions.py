"""From a fine-tuned network to predictions, scores and their files."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import (
  features as features_lib,
  metrics as metrics_lib,
  table,
)
from gpt1_jax.train import sharding, step as step_lib

Outputs = Callable[[Any, features_lib.Batches], np.ndarray]


def outputs_fn(loss_fn: step_lib.LossFn, mesh: jax.sharding.Mesh) -> Outputs:
  """(parameters, split) → float32 [N, Y]: each example's outputs, in order."""
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  @functools.partial(jax.jit, out_shardings=replicated)
  def forward(params, batch):
    example_ids_B = jnp.arange(batch['label'].shape[0], dtype=jnp.uint32)
    _, _, sums = loss_fn(params, batch, None, example_ids_B)
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


def predict(task: table.Task, outputs_NY: np.ndarray) -> np.ndarray:
  """[N]: the class (or choice) with the largest logit, or the value.

  Where a value has several outputs, they are the logits of the whole numbers
  within its bounds, and the value is their expectation.
  """
  if not task.regression:
    return outputs_NY.argmax(axis=1)
  if outputs_NY.shape[1] == 1:
    return outputs_NY[:, 0]
  logits_NY = outputs_NY.astype(np.float64)
  weights_NY = np.exp(logits_NY - logits_NY.max(axis=1, keepdims=True))
  values_N = weights_NY @ np.array(task.whole_numbers) / weights_NY.sum(axis=1)
  return values_N.astype(np.float32)


def score(
  task: table.Task, split: features_lib.Batches, outputs_NY: np.ndarray
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
  task: table.Task,
  split: str,
  batches: features_lib.Batches,
  outputs_NY: np.ndarray,
) -> None:
  """predictions/SPLIT.tsv: index, label, prediction, outputs; atomic.

  Classes and choices are numbers from 0; a hidden label is `-`.
  """
  labels = batches.features.labels
  if not batches.features.labelled:
    labels = ['-'] * len(labels)
  lines = ['index\tlabel\tprediction\toutputs\n']
  for i, (label, value) in enumerate(
    zip(labels, predict(task, outputs_NY), strict=True)
  ):
    row = ' '.join(f'{x:.9g}' for x in outputs_NY[i])
    lines.append(f'{i}\t{label}\t{value}\t{row}\n')
  _write(storage.path(workdir) / 'predictions' / f'{split}.tsv', lines)


def write_submission(
  workdir: str, task: table.Task, split: str, outputs_NY: np.ndarray
) -> None:
  """submission/NAME.tsv as gluebenchmark.com takes it; atomic.

  A header, then the number of each row of the test file and its label, spelled
  as in the training file, or its value within the bounds.
  """
  values = predict(task, outputs_NY)
  if task.regression:
    spelled = [f'{value:.3f}' for value in np.clip(values, *task.bounds)]
  else:
    spelled = [task.labels[number] for number in values]
  lines = ['index\tprediction\n']
  lines += [f'{i}\t{word}\n' for i, word in enumerate(spelled)]
  name = task.submission[split]
  _write(storage.path(workdir) / 'submission' / name, lines)


def _write(path: storage.Path, lines: list[str]) -> None:
  storage.write_text(path, ''.join(lines))
