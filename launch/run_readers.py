"""Reads malformed checkpoints, run folders and reports; see malformed.py."""

import contextlib
import pathlib
from collections.abc import Iterator

import checkout  # noqa: F401
import jax
import numpy as np
from file_readers import Entry, Rng, changed, expect
from mutations import damages, mutate_json

from gpt1_jax.errors import UserError
from gpt1_jax.reporting import page, runs as runs_lib, sections
from gpt1_jax.tasks import labelling
from gpt1_jax.train import (
  belonging,
  checkpoint,
  checksums,
  run as run_lib,
  telemetry,
)


def run_readers(run: pathlib.Path, runs: pathlib.Path) -> Iterator[Entry]:
  """Yields the readers of one run folder, and of a report's run folders."""
  saved = run / 'checkpoints' / '3'
  stored = sorted(path for path in saved.rglob('*') if path.is_file())
  expected, meta, _ = checkpoint.read(str(run))

  def read() -> None:
    found = checkpoint.read(str(run))
    same = jax.tree.map(np.array_equal, found.params, expected)
    expect(all(jax.tree.leaves(same)), 'other weights')
    expect(found.meta == meta, 'other metadata')

  def arrays(rng: Rng) -> None:
    file = rng.choice(stored)
    with changed(file, mutate_json(file.read_bytes(), rng)):
      read()

  def bits(rng: Rng) -> None:
    file = rng.choice(stored)
    found = damages(file.read_bytes(), rng, bits=40)
    with changed(file, rng.choice([content for _, content in found])):
      read()

  def metadata(rng: Rng) -> None:
    names = ('meta/metadata', '_CHECKPOINT_METADATA', 'state/_METADATA')
    file = saved / rng.choice(names)
    with (
      changed(file, mutate_json(file.read_bytes(), rng)),
      changed(saved / checksums.CHECKSUMS, None),
    ):
      checksums.write(saved)  # a forged checkpoint: what can be read is right
      checkpoint.read(str(run))

  def ranking(rng: Rng) -> None:
    file = run / 'ranking.json'
    file.write_bytes(mutate_json(b'{"3": 0.5, "2": 0.25}', rng))
    try:
      checkpoint.read(str(run))
    finally:
      file.unlink()

  right = run_lib.load(str(run))

  def header(rng: Rng) -> None:
    file = run / 'config.json'
    with changed(file, mutate_json(file.read_bytes(), rng)):
      found = run_lib.load(str(run))
      run_lib.changes(str(run), 'pretrain', found['config'])
      belonging.check(str(run), right)
      belonging.tokenizer(str(run), meta)

  files = ('config.json', 'scores.json', 'metrics.jsonl', 'zero_shot.jsonl')
  reported = sorted(p for p in runs.rglob('*') if p.name in files)

  def records(rng: Rng, draw: bool = False) -> None:
    file = rng.choice(reported)
    with changed(file, mutate_json(file.read_bytes(), rng)):
      found = runs_lib.find([str(file.parent.parent)])
      for each in found:
        each.describe()
        telemetry.read_rows(each.path / telemetry.METRICS)
      if draw:
        made = sections.build(found)
        page.html(made)
        page.markdown(made)
      with contextlib.suppress(UserError):  # of settings that it lacks
        labelling._open(str(file.parent))

  yield 'checkpoint', 0.5, arrays
  yield 'bits of a checkpoint', 1, bits
  yield 'checkpoint metadata', 0.5, metadata
  yield 'ranking.json', 0.5, ranking
  yield 'config.json of a run', 5, header
  yield 'files of a report', 4, records
  yield 'report', 0.2, lambda rng: records(rng, draw=True)
