"""Computes, scores and writes a fine-tuned model's predictions."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import metrics
from gpt1_jax.tasks.batches import Batches
from gpt1_jax.tasks.definition import Task
from gpt1_jax.tasks.examples import Example, labels
from gpt1_jax.train import pulse, sharding, step as step_lib

Outputs = Callable[[Any, Batches], np.ndarray]
Advance = Callable[[int, int], None]


def outputs_fn(loss_fn: step_lib.LossFn, mesh: jax.sharding.Mesh) -> Outputs:
  """Compiles the forward pass.

  Returns:
    (parameters, batches of a split) -> float32[N, Y], the head's outputs for
    each example, in the order of the file.
  """

  @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
  def forward(
    params: Any, batch: dict[str, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    example_ids_B = jnp.arange(batch['label'].shape[0], dtype=jnp.uint32)
    _, _, sums = loss_fn(params, batch, None, example_ids_B)
    return sums['outputs'], batch['index']

  def outputs(params: Any, batches: Batches) -> np.ndarray:
    return gather(functools.partial(forward, params), batches, mesh)

  return outputs


def gather(
  forward: Callable[[dict[str, jax.Array]], tuple[jax.Array, jax.Array]],
  batches: Batches,
  mesh: jax.sharding.Mesh,
  advance: Advance = lambda count, tokens: None,
) -> np.ndarray:
  """Returns float32[N, Y], the outputs of all examples in their order.

  Args:
    forward: maps a batch to its outputs [B, Y] and its `index` [B].
    batches: the examples; no shuffling, one epoch.
    advance: called with the number of examples and tokens of each batch.
  """
  rows: list[tuple[np.ndarray, np.ndarray]] = []

  def read(result: tuple[jax.Array, jax.Array], width: int) -> None:
    values_BY, index_B = jax.device_get(result)
    real = index_B >= 0
    rows.append((values_BY[real], index_B[real]))
    advance(int(real.sum()), int(real.sum()) * width)
    pulse.tick('evaluating')

  previous = None  # read one batch late, so that the device does not stall
  for step in range(batches.steps_per_epoch):
    batch = batches.batch(step)
    result = forward(sharding.put_batch(batch, mesh))
    if previous:
      read(*previous)
    previous = result, batch['tokens'][0, :].size
  assert previous is not None  # a split has at least one batch
  read(*previous)
  values, index = map(np.concatenate, zip(*rows, strict=True))
  return values[np.argsort(index)]


def predict(task: Task, outputs_NY: np.ndarray) -> np.ndarray:
  """Returns [N], the class or choice with the largest logit, or the value.

  Several outputs of a regression head are logits of the whole numbers within
  the bounds; the prediction is their expectation.

  Raises:
    UserError: an output is not finite.
  """
  if not np.isfinite(outputs_NY).all():
    raise UserError(
      f'task {task.name}: outputs are not finite; try a lower optim.peak_lr'
    )
  if not task.regression:
    return outputs_NY.argmax(axis=1)
  if outputs_NY.shape[1] == 1:
    return outputs_NY[:, 0]
  weights_NY = _softmax(outputs_NY)
  return (weights_NY @ np.array(task.whole_numbers)).astype(np.float32)


def _softmax(outputs_NY: np.ndarray) -> np.ndarray:
  from scipy import special  # slow, and only read here

  return special.softmax(outputs_NY.astype(np.float64), axis=1)


def score(
  task: Task, labels_N: np.ndarray, outputs_NY: np.ndarray
) -> dict[str, float]:
  """Returns the task's metrics on a split."""
  return metrics.score(task.metrics, labels_N, predict(task, outputs_NY))


def named(
  task: Task, examples: Sequence[Example], outputs_NY: np.ndarray
) -> Iterator[dict[str, object]]:
  """Yields `prediction`, a label or a value, and `probabilities` of labels."""
  values = predict(task, outputs_NY)
  shares_NY = _softmax(outputs_NY)
  for example, value, shares_Y in zip(examples, values, shares_NY, strict=True):
    names = labels(task, len(example.choices))
    if names:
      each = dict(zip(names, shares_Y.tolist(), strict=True))
      yield {'prediction': names[value], 'probabilities': each}
    else:
      yield {'prediction': float(value)}


def _records(
  task: Task, examples: Sequence[Example], outputs_NY: np.ndarray
) -> Iterator[dict[str, object]]:
  """Yields a record of each example: number, texts, label and `named`."""
  answers = named(task, examples, outputs_NY)
  for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
    row: dict[str, object] = dict(zip(task.texts, example.texts, strict=True))
    if example.choices:
      row[task.choices] = example.choices
    names = labels(task, len(example.choices))
    label = example.label
    if names and label is not None:
      yield {'index': i, **row, 'label': names[int(label)], **answer}
    else:
      yield {'index': i, **row, 'label': label, **answer}


def write(
  workdir: str,
  task: Task,
  split: str,
  examples: Sequence[Example],
  outputs_NY: np.ndarray,
) -> None:
  """Writes a split's predictions to the run directory, each file atomically.

  predictions/SPLIT.tsv: index, label, prediction, outputs. Classes and choices
  are numbers from 0; a hidden label is `-`.

  predictions/SPLIT.jsonl: the same with texts, and with labels spelled as the
  task spells them.

  submission/NAME.tsv, as gluebenchmark.com expects it: for each row of the test
  file its number and its label as the training file spells it, or its value
  within the bounds.
  """
  values = predict(task, outputs_NY)
  folder = storage.path(workdir)
  table = ['index\tlabel\tprediction\toutputs']
  for i, (example, value) in enumerate(zip(examples, values, strict=True)):
    label = '-' if example.label is None else example.label
    outputs = ' '.join(f'{x:.9g}' for x in outputs_NY[i])
    table.append(f'{i}\t{label}\t{value}\t{outputs}')
  _write(folder / 'predictions' / f'{split}.tsv', table)
  rows = _records(task, examples, outputs_NY)
  lines = (json.dumps(row, ensure_ascii=False) for row in rows)
  _write(folder / 'predictions' / f'{split}.jsonl', lines)
  if split not in task.submission:
    return
  if task.regression:
    low, high = task.bounds or (None, None)
    spelled = [f'{value:.3f}' for value in np.clip(values, low, high)]
  else:
    spelled = [task.labels[number] for number in values]
  table = ['index\tprediction', *(f'{i}\t{x}' for i, x in enumerate(spelled))]
  _write(folder / 'submission' / task.submission[split], table)


def _write(path: storage.Path, lines: Iterable[str]) -> None:
  storage.write_text(path, ''.join(f'{line}\n' for line in lines))
