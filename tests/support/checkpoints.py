"""Opens and fills the checkpoints of a run that trains nothing."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from gpt1_jax.train import checkpoint
from tests.support import networks

COMMIT = 'commit_success.txt'  # a note; its content means nothing
META = checkpoint.CheckpointMeta(networks.GPT_CONFIG, 'tokenizer')
WEIGHTS = np.arange(5000, dtype=np.float32)


@contextlib.contextmanager
def opened(
  workdir: pathlib.Path, keep_best: bool = False
) -> Iterator[checkpoint.Checkpoints]:
  """Opens the checkpoints of a run, of which three are kept."""
  found = checkpoint.Checkpoints(str(workdir), keep=3, keep_best=keep_best)
  with contextlib.closing(found):
    yield found


def state(step: int) -> dict:
  """Returns a state whose weights depend on the step."""
  return {'params': {'w': jnp.asarray(WEIGHTS + step)}, 'step': np.int32(step)}
