"""Saves and reads checkpoints with Orbax.

"Checkpoint N" is the state after N updates. A checkpoint also holds JSON
metadata, so that it can be read without the original configuration, and
checksums, which are verified before anything else is read.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from gpt1_jax import storage
from gpt1_jax.errors import UserError
from gpt1_jax.model import models
from gpt1_jax.settings import ModelConfig
from gpt1_jax.train import checksums, hosts, orbax_manager, ranking

_READ = ('params', 'step')  # what `read` needs of a state


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
  """The JSON metadata of a checkpoint.

  Attributes:
    tokenizer_fingerprint: sha256 of the tokenizer, hex.
    task: name of the fine-tuning task, or None for pretraining.
  """

  model: ModelConfig
  tokenizer_fingerprint: str
  task: str | None = None

  def as_json(self) -> dict[str, object]:
    """Returns the metadata as JSON values."""
    values = dataclasses.asdict(self)
    return {key: value for key, value in values.items() if value is not None}


class Checkpoint(NamedTuple):
  """The weights of a checkpoint, without the optimiser's state.

  Attributes:
    params: tree of unsharded numpy arrays.
    step: number of updates applied.
  """

  params: Any
  meta: CheckpointMeta
  step: int


class Checkpoints:
  """Saves a run's states atomically and asynchronously, and restores them."""

  def __init__(self, workdir: str, *, keep: int, keep_best: bool):
    """Opens WORKDIR/checkpoints, creating it if missing.

    Args:
      keep: number of latest checkpoints to keep.
      keep_best: True also keeps the checkpoint with the highest score; see
        `rank`.

    Raises:
      UserError: Orbax cannot save in a folder of this name.
    """
    self._directory = _directory(workdir)
    storage.check_no_pattern(self._directory)
    self._ranking = ranking.Ranking(workdir)
    policy: preservation_policy.PreservationPolicy
    policy = preservation_policy.LatestN(keep)
    if keep_best:
      policy = preservation_policy.AnyPreservationPolicy(
        [policy, self._ranking]
      )
    self._quiet = contextlib.ExitStack()
    self._quiet.enter_context(orbax_manager.quiet())
    self._manager = orbax_manager.create(
      self._directory, preservation_policy=policy, cleanup_tmp_directories=True
    )

  def latest_intact(self) -> int | None:
    """Returns the step of the latest intact checkpoint, or None.

    Damaged later checkpoints, and a damaged best one, are renamed to N.damaged
    (in a bucket: removed), with a warning for each.

    Raises:
      UserError: there are checkpoints, but none is intact.
    """
    steps = self._manager.all_steps()
    if not steps:
      return None
    best = self._ranking.best(steps)
    latest, damaged = checksums.latest_intact(self._directory, steps, best)
    if damaged:
      checksums.set_aside(self._directory, damaged, latest)
      self._manager.reload()
    return latest

  def save(self, step: int, state: Any, meta: CheckpointMeta) -> None:
    """Saves a new step; returns once the state is copied off the devices."""
    if step in self._manager.all_steps():
      return
    items = ocp.args.Composite(
      state=ocp.args.PyTreeSave(state),
      meta=ocp.args.JsonSave(meta.as_json()),
    )
    with orbax_manager.saving(self._directory, self._quiet):
      self._manager.save(step, args=items, force=True)

  def rank(self, step: int, score: float) -> None:
    """Waits for a checkpoint and records its score; higher is better."""
    self.wait()
    self._ranking.add(step, score)

  def since_best(self, done: int) -> int:
    """Returns how many scores follow the best of those up to step `done`."""
    return self._ranking.since_best(done)

  def restore(self, step: int, state: Any) -> Any:
    """Restores a checkpoint's state with the shardings of `state`.

    Args:
      state: tree of ShapeDtypeStructs with shardings.

    Raises:
      UserError: the checkpoint is damaged or its shapes differ.
    """
    return _restore(self._manager, self._directory, step, state)

  def wait(self) -> None:
    """Waits until every save is on disk."""
    with orbax_manager.saving(self._directory, self._quiet):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for pending saves and closes the manager."""
    with self._quiet, orbax_manager.saving(self._directory, self._quiet):
      self._manager.close()


def read(
  workdir: str, step: int | None = None, best: bool = True
) -> Checkpoint:
  """Reads the weights of a run.

  Args:
    step: checkpoint to read; None reads the best if `best` is True and the run
      ranked its checkpoints, else the latest.

  Raises:
    UserError: the run or the checkpoint does not exist, or is damaged.
  """
  directory = _directory(workdir)
  with _open(workdir) as manager:
    step = _known_step(workdir, manager, step, best)
    checksums.check(directory, manager.all_steps(), step)
    with orbax_manager.reading(directory, step):
      meta = _read_meta(manager, step)
      tree = manager.item_metadata(step)['state'].tree
      # Orbax reads only the leaves listed here.
      wanted = jax.tree.map(lambda _: 0, {k: tree[k] for k in _READ})
      array = ocp.RestoreArgs(restore_type=np.ndarray)
      as_numpy = jax.tree.map(lambda _: array, wanted)
      state = ocp.args.PyTreeRestore(
        wanted, restore_args=as_numpy, partial_restore=True
      )
      items = ocp.args.Composite(state=state)
      found = manager.restore(step, args=items)['state']
  _check_name(directory, step, found['step'])
  # Slim runs hold bfloat16; parameters are float32 in memory.
  params = jax.tree.map(lambda x: np.asarray(x, np.float32), found['params'])
  return Checkpoint(params, meta, step)


def read_state(
  workdir: str, step: int | None, state: Any, meta: CheckpointMeta
) -> Any:
  """Reads the whole state of another run, with the shardings of `state`.

  Args:
    step: checkpoint to read; None reads the latest.
    state: tree of ShapeDtypeStructs with shardings.
    meta: metadata of the new run that begins with this state.

  Raises:
    UserError: the run or the checkpoint is missing, damaged or does not fit.
  """
  with _open(workdir) as manager:
    step = _known_step(workdir, manager, step, best=False)
    checksums.check(_directory(workdir), manager.all_steps(), step)
    sums = _directory(workdir) / str(step) / checksums.CHECKSUMS
    hosts.agree({f'checkpoint of {workdir}': storage.read_json(sums)})
    theirs = _read_meta(manager, step)
    if theirs.tokenizer_fingerprint != meta.tokenizer_fingerprint:
      raise UserError(
        f'{workdir}: its tokenizer differs from that of the data; prepare '
        f'the data with --tokenizer={workdir}'
      )
    models.check_shape(f'--fork_from={workdir}', theirs.model, meta.model)
    tree = manager.item_metadata(step)['state'].tree
    if theirs.task or 'opt_state' not in tree:
      raise UserError(
        f'--fork_from={workdir}: it lacks the optimiser of a pretraining run; '
        f'--config.init_from={workdir} starts from its weights'
      )
    return _restore(manager, _directory(workdir), step, state)


def split_step(name: str) -> tuple[str, int | None]:
  """Splits RUN@STEP; RUN alone means the best or the latest checkpoint."""
  found = re.fullmatch('(.+)@([0-9]{1,18})', name, re.DOTALL)
  if not found or storage.path(name).is_dir():  # a folder may be named a@1
    return name, None
  return found[1], int(found[2])


def steps(workdir: str) -> list[int]:
  """Returns the steps of a run's complete checkpoints, in ascending order.

  Raises:
    UserError: the run does not exist or has no checkpoint.
  """
  with _open(workdir) as manager:
    return sorted(manager.all_steps())


def _known_step(
  workdir: str, manager: ocp.CheckpointManager, step: int | None, best: bool
) -> int:
  """Returns `step` if it exists; for None, the best if asked, or the latest."""
  steps = manager.all_steps()
  if step is None:
    step = ranking.Ranking(workdir).best(steps) if best else None
    return max(steps) if step is None else step
  if step not in steps:
    have = ', '.join(str(s) for s in sorted(steps))
    raise UserError(f'{workdir}: no checkpoint {step}; available: {have}')
  return step


def _read_meta(manager: ocp.CheckpointManager, step: int) -> CheckpointMeta:
  item = ocp.args.Composite(meta=ocp.args.JsonRestore())
  values = manager.restore(step, args=item)['meta']
  return CheckpointMeta(**{**values, 'model': models.read(values['model'])})


def _restore(
  manager: ocp.CheckpointManager,
  directory: storage.Path,
  step: int,
  state: Any,
) -> Any:
  """Restores the item `state` with the shardings of `state`."""
  arguments = ocp.checkpoint_utils.construct_restore_args(state)
  item = ocp.args.PyTreeRestore(state, restore_args=arguments)
  with orbax_manager.reading(directory, step):
    found = manager.restore(step, args=ocp.args.Composite(state=item))['state']
  _check_name(directory, step, found.step)
  return found


def _check_name(directory: storage.Path, step: int, found: Any) -> None:
  """Refuses a checkpoint whose folder is not named after its update."""
  if found != step:
    raise UserError(
      f'{directory}/{step}: was renamed; it holds the state after '
      f'update {found}: rename it to {found}, or delete it if that exists'
    )


@contextlib.contextmanager
def _open(workdir: str) -> Iterator[ocp.CheckpointManager]:
  """Opens a run's checkpoints for reading."""
  directory = _directory(workdir)
  if not directory.is_dir():
    found = storage.path(workdir).exists()
    what = 'not a run (it has no checkpoints)' if found else 'no such folder'
    raise UserError(
      f'{workdir}: {what}; gpt1-pretrain --help shows how to make a model'
    )
  with (
    orbax_manager.quiet(),
    orbax_manager.create(directory, read_only=True) as manager,
  ):
    if not manager.all_steps():
      raise UserError(f'{workdir}: the run has no finished checkpoint yet')
    yield manager


def _directory(workdir: str) -> storage.Path:
  return storage.writable(workdir) / 'checkpoints'
