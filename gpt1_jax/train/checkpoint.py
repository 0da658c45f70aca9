"""The one place that knows Orbax.

"Checkpoint N" means that N updates were applied. A checkpoint holds the state
and a JSON part: the model's configuration and the tokenizer's fingerprint,
so that it can be read without the configuration that made it.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gpt1_jax import storage
from gpt1_jax.errors import UserError


class Checkpoints:
  """The checkpoints of one run: asynchronous saves, atomic on disk."""

  def __init__(self, workdir: str, *, keep: int, keep_best: bool):
    """Opens WORKDIR/checkpoints.

    Args:
      workdir: the run.
      keep: how many of the latest checkpoints stay.
      keep_best: whether the checkpoint saved with the highest metric 'best'
        stays as well.
    """
    self._verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax, until `close`
    policy = preservation_policy.LatestN(keep)
    if keep_best:
      policy = preservation_policy.AnyPreservationPolicy(
        [
          policy,
          preservation_policy.BestN(
            get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
          ),
        ]
      )
    self._directory = _directory(workdir)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        # Metrics are written to disk only if there is one.
        best_fn=_rank if keep_best else None,
        cleanup_tmp_directories=True,
      ),
      item_handlers={
        # Compressed, float32 weights take 8% less room, and saving them takes
        # several times the processor's time, which a CPU's step then lacks.
        'state': ocp.PyTreeCheckpointHandler(use_compression=False),
        'meta': ocp.JsonCheckpointHandler(),
      },
    )

  @property
  def latest_step(self) -> int | None:
    """The last finished checkpoint, None if there is none."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: Any,
    meta: dict[str, Any],
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Starts saving; the copy off the device is done when this returns."""
    if step in self._manager.all_steps():
      return
    if metrics:
      metrics = {**metrics, 'step': step}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
      ),
      metrics=metrics,
      force=True,
    )

  def restore(self, step: int, state: Any) -> Any:
    """The saved state, in the shapes, types and shardings of `state`.

    Args:
      step: a checkpoint that exists.
      state: arrays, or ShapeDtypeStructs with shardings.

    Raises:
      UserError: the checkpoint is of another shape or cannot be read.
    """
    wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    args = ocp.args.PyTreeRestore(
      wanted,
      restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
    )
    try:
      restored = self._manager.restore(
        step, args=ocp.args.Composite(state=args)
      )
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise UserError(
        f'{self._directory}/{step}: does not fit this configuration or is '
        f'damaged ({str(error).splitlines()[0]})'
      ) from error
    return restored['state']

  def wait(self) -> None:
    """Returns when every save is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the directory."""
    self._manager.close()
    logging.set_verbosity(self._verbosity)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps Orbax from warning, and nobody else after it."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


@_quiet()
def read(
  workdir: str, step: int | None = None, best: bool = True
) -> tuple[Any, dict[str, Any], int]:
  """Parameters of a run, as numpy arrays, whatever mesh wrote them.

  Args:
    workdir: a run.
    step: which checkpoint; None: the best if the run kept one and `best`,
      else the latest.

  Returns:
    The parameters, the JSON part and the step.

  Raises:
    UserError: no run, no checkpoint, or not that one.
  """
  with _open(workdir) as manager:
    steps = manager.all_steps()
    if step is None:
      step = _best_step(manager, steps) if best else max(steps)
    if step not in steps:
      have = ', '.join(str(s) for s in sorted(steps))
      raise UserError(f'{workdir}: no checkpoint {step}; there are {have}')
  directory = _directory(workdir) / str(step)
  state, meta = directory / 'state', directory / 'meta'
  with ocp.PyTreeCheckpointer() as reader:
    # Only the leaves named here are read: not the optimiser's state.
    tree = reader.metadata(state).item_metadata.tree
    wanted = jax.tree.map(lambda _: 0, {'params': tree['params']})
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
    )
    restored = reader.restore(
      state,
      args=ocp.args.PyTreeRestore(
        wanted, restore_args=as_numpy, partial_restore=True
      ),
    )
  facts = json.loads((meta / 'metadata').read_text(encoding='utf-8'))
  return restored['params'], facts, step


@_quiet()
def steps(workdir: str) -> list[int]:
  """The finished checkpoints of a run, in order.

  Raises:
    UserError: no run, or no checkpoint.
  """
  with _open(workdir) as manager:
    return sorted(manager.all_steps())


@contextlib.contextmanager
def _open(workdir: str) -> Iterator[ocp.CheckpointManager]:
  """The checkpoints of a run that has one, to read."""
  directory = _directory(workdir)
  if not directory.is_dir():
    raise UserError(
      f'{workdir}: not a run (it has no checkpoints folder); give the '
      '--workdir of a pretrain or finetune command'
    )
  with ocp.CheckpointManager(
    directory, item_names=('state', 'meta')
  ) as manager:
    if not manager.all_steps():
      raise UserError(f'{workdir}: the run has no finished checkpoint yet')
    yield manager


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
  """Higher is better; of equals the earlier (C: train.py)."""
  return metrics['best'], -metrics['step']


def _best_step(manager: ocp.CheckpointManager, steps: list[int]) -> int:
  """The step with the highest saved 'best' metric, else the latest."""
  saved = [manager.metrics(step) for step in steps]
  ranks = [_rank(metrics) for metrics in saved if metrics]
  return -int(max(ranks)[1]) if ranks else max(steps)


def _directory(workdir: str) -> storage.Path:
  return storage.resolved(workdir) / 'checkpoints'
