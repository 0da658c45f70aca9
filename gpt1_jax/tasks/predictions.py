"""Computes a fine-tuned model's predictions and scores; writes their files."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.batches import Batches
from gpt1_jax.tasks.definition import Task
from gpt1_jax.train import pulse, sharding, step as step_lib

Outputs = Callable[[Any, Batches], np.ndarray]


def outputs_fn(loss_fn: step_lib.LossFn, mesh: jax.sharding.Mesh) -> Outputs:
  """Compiles the forward pass.

  Returns:
    (parameters, batches of a split) -> float32[N, Y], the head's outputs for
    each example, in the order of the file.
  """
  replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  @functools.partial(jax.jit, out_shardings=replicated)
  def forward(
    params: Any, batch: dict[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    example_ids_B = jnp.arange(batch['label'].shape[0], dtype=jnp.uint32)
    _, _, sums = loss_fn(params, batch, None, example_ids_B)
    return sums['outputs'], batch['index']

  def outputs(params: Any, batches: Batches) -> np.ndarray:
    out = None
    for step in range(batches.steps_per_epoch):
      batch = sharding.put_batch(batches.batch(step), mesh)
      values_BY, index_B = jax.device_get(forward(params, batch))
      if out is None:
        shape = (batches.features.num_examples, values_BY.shape[1])
        out = np.full(shape, np.nan, np.float32)
      out[index_B[index_B >= 0]] = values_BY[index_B >= 0]
      pulse.tick('evaluating')
    assert out is not None  # a split has one batch or more
    return out

  return outputs


def predict(task: Task, outputs_NY: np.ndarray) -> np.ndarray:
  """Returns [N], the class or choice with the largest logit, or the value.

  With several outputs for a value, they are logits of the whole numbers
  within its bounds, and the prediction is their expectation.
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
  task: Task, labels: np.ndarray, outputs_NY: np.ndarray
) -> dict[str, float]:
  """Returns the task's metrics on a split.

  Args:
    task: the task.
    labels: [N], `Features.labels` of the split.
    outputs_NY: float32[N, Y], the head's outputs.

  Raises:
    UserError: an output is not finite.
  """
  if not np.isfinite(outputs_NY).all():
    raise UserError(
      f'task {task.name}: outputs are not finite; try a lower optim.peak_lr'
    )
  return metrics.score(task.metrics, labels, predict(task, outputs_NY))


def write_predictions(
  workdir: str,
  task: Task,
  split: str,
  labels: np.ndarray | None,
  outputs_NY: np.ndarray,
) -> None:
  """Writes predictions/SPLIT.tsv under the run directory; atomic.

  Columns: index, label, prediction, outputs. Classes and choices are numbers
  from 0; a hidden label is `-`.
  """
  values = predict(task, outputs_NY)
  lines = ['index\tlabel\tprediction\toutputs\n']
  for i, value in enumerate(values):
    label = '-' if labels is None else labels[i]
    outputs = ' '.join(f'{x:.9g}' for x in outputs_NY[i])
    lines.append(f'{i}\t{label}\t{value}\t{outputs}\n')
  _write(storage.path(workdir) / 'predictions' / f'{split}.tsv', lines)


def write_submission(
  workdir: str, task: Task, split: str, outputs_NY: np.ndarray
) -> None:
  """Writes submission/NAME.tsv as gluebenchmark.com expects it; atomic.

  A header, then for each row of the test file its number and its label as the
  training file spells it, or its value within the bounds.
  """
  values = predict(task, outputs_NY)
  if task.regression:
    low, high = task.bounds or (None, None)
    spelled = [f'{value:.3f}' for value in np.clip(values, low, high)]
  else:
    spelled = [task.labels[number] for number in values]
  lines = ['index\tprediction\n']
  lines += [f'{i}\t{word}\n' for i, word in enumerate(spelled)]
  name = task.submission[split]
  _write(storage.path(workdir) / 'submission' / name, lines)


def _write(path: storage.Path, lines: list[str]) -> None:
  storage.write_text(path, ''.join(lines))
