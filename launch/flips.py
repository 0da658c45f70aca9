r"""Damages a checkpoint in many ways, and counts undetected damage.

  python launch/flips.py             # 1,000 single bits, in `make torture`
  python launch/flips.py --flips=50  # the short form

Flips single bits of every file, and fills, cuts, empties and deletes each file.
A trial fails if the damaged checkpoint is read without an error and differs, or
if the error is not one line. Exits with 1 if any trial failed.
"""

import collections
import contextlib
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator

import checkout  # noqa: F401
import jax
import jax.numpy as jnp
import mutations
import numpy as np
from absl import app, flags

from gpt1_jax.errors import UserError
from gpt1_jax.settings import GPTConfig
from gpt1_jax.train import checkpoint
from tests.support import finetuning

_FLIPS = flags.DEFINE_integer('flips', 1000, 'Single bits to flip.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seeds the choice of files and bits.')
_MODEL = GPTConfig(**finetuning.MODEL, vocab_size=100, n_special=0)
_WORDS = np.arange(4000, dtype=np.float32)


def main(argv: list[str]) -> None:
  """Runs all trials and prints a table."""
  del argv
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  with tempfile.TemporaryDirectory(prefix='gpt1_jax-') as name:
    run = pathlib.Path(name)
    _save(run)
    folder = run / 'checkpoints' / '2'
    kept = shutil.copytree(folder, run / 'kept')
    for kind, file, content in _damages(folder):
      _write(file, content)
      counts[kind, _outcome(run)] += 1
      _write(file, (kept / file.relative_to(folder)).read_bytes())
  for (kind, outcome), count in sorted(counts.items()):
    print(f'{kind:8} {outcome:16} {count:6}')
  if any(outcome not in ('named', 'harmless') for _, outcome in counts):
    sys.exit(1)


def _save(run: pathlib.Path) -> None:
  checkpoints = checkpoint.Checkpoints(str(run), keep=2, keep_best=False)
  with contextlib.closing(checkpoints):
    for step in (1, 2):
      state = {'params': {'w': jnp.asarray(_WORDS * step)}}
      checkpoints.save(step, state, checkpoint.CheckpointMeta(_MODEL, 'x'))
      checkpoints.wait()


def _damages(
  folder: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path, bytes | None]]:
  """Yields (kind of damage, file, new content); None means a deleted file."""
  rng = random.Random(_SEED.value)
  files = sorted(file for file in folder.rglob('*') if file.is_file())
  for number, file in enumerate(files):
    bits = len(range(number, _FLIPS.value, len(files)))
    for kind, content in mutations.damages(file.read_bytes(), rng, bits):
      yield kind, file, content


def _write(file: pathlib.Path, content: bytes | None) -> None:
  if content is None:
    file.unlink()
  else:
    file.write_bytes(content)


def _outcome(run: pathlib.Path) -> str:
  """Reads the damaged checkpoint; returns the outcome."""
  try:
    found = checkpoint.read(str(run))
  except UserError as error:
    is_good = 'damaged' in str(error) and '--step=1' in str(error)
    return 'named' if is_good and '\n' not in str(error) else 'unclear'
  except Exception as error:
    return f'traceback {type(error).__name__}'
  same = found.step == 2 and found.meta.model == _MODEL
  same &= bool(np.array_equal(found.params['w'], _WORDS * 2))
  return 'harmless' if same else 'SILENTLY WRONG'


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  app.run(main)
