"""What a run fills into the cells of a row: scores, splits, where it is from.

All scores are in percent; several seeds are their median [least, most].
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from gpt1_jax import storage
from gpt1_jax.reporting import runs as runs_lib

NOT_RUN = 'not run'
NOTHING = '–'
# Header of what `details` gives.
DETAILS = ('split', 'seeds', 'tokens seen', 'parameters', 'commit', 'run')

Origins = Mapping[storage.Path, runs_lib.Run]


def percent(values: Sequence[float]) -> str:
  """One score a seed → '11.4', or '11.4 [9.0, 13.3]' of several."""
  median, least, most = (
    f'{100 * f(values):.1f}' for f in (statistics.median, min, max)
  )
  return median if len(values) == 1 else f'{median} [{least}, {most}]'


def short(count: int) -> str:
  """10322304 → '10.3 M'."""
  for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if count >= size:
      return f'{count / size:.1f} {letter}'
  return str(count)


def chosen(
  runs: Iterable[runs_lib.Run], variant: str
) -> dict[str, runs_lib.Run]:
  """Task → the run that stands for a row of Table 5.

  That of the most finished seeds, of equals the last; where none is finished,
  the last begun.
  """
  found: dict[str, runs_lib.Run] = {}
  for run in runs:
    if run.command == 'finetune' and run.variant == variant:
      there = found.get(run.task)
      if there is None or len(run.seeds) >= len(there.seeds):
        found[run.task] = run
  return found


def split(run: runs_lib.Run, part: str, metric: str) -> str | None:
  """Its labelled test split, else its dev split, whose name ends in `part`."""
  for name in (f'test{part}', f'dev{part}'):
    if run.values(name, metric) is not None:
      return name
  return None


def details(
  run: runs_lib.Run, split: str | None, origins: Origins
) -> list[str]:
  """Cells under `DETAILS`.

  Args:
    run: of fine-tuning.
    split: that the score is of; None where there is none.
    origins: runs of pretraining by their place.
  """
  name = NOTHING
  if split:
    # Runs from before the counts of all splits have that of dev alone.
    counts = {'dev': run.scores, **run.scores.get('counts', {})}
    name = f'{split}, {counts[split]["examples"]:,}'
  seeds = str(len(run.seeds)) if run.scores else NOTHING
  rest = (short(run.facts['parameters']), run.commit, run.name)
  return [name, seeds, tokens_seen(run, origins), *rest]


def origin(run: runs_lib.Run, origins: Origins) -> runs_lib.Run | None:
  """The run of pretraining that a run of fine-tuning started from."""
  start = run.facts['config']['init_from']
  if start == 'none':
    return None
  path = storage.resolved(start)
  if path in origins:
    return origins[path]
  return runs_lib.load(path) if (path / 'config.json').exists() else None


def tokens_seen(run: runs_lib.Run, origins: Origins) -> str:
  """In pretraining, by the network that a run is of or started from."""
  if run.command == 'finetune':
    if run.facts['config']['init_from'] == 'none':
      return 'none'
    source = origin(run, origins)
    return tokens_seen(source, origins) if source else 'unknown'
  if run.command == 'convert':
    return 'trained elsewhere'
  return short(run.scores['tokens_seen']) if run.scores else run.state


def start(run: runs_lib.Run, origins: Origins) -> str:
  """What a run of fine-tuning started from, in words."""
  given = run.facts['config']['init_from']
  if given == 'none':
    return 'scratch'
  path = storage.resolved(given)
  source = origins[path].name if path in origins else given
  if run.variant == runs_lib.LAYERS:
    return f'{run.layers} of {run.depth} layers of {source}'
  return source


def settings(run: runs_lib.Run) -> str:
  """How a run of fine-tuning was trained, in a few words."""
  config = run.facts['config']
  optim, train = config['optim'], config['train']
  length = f'{train["num_epochs"]:g} epochs'
  if train['num_steps']:
    length = f'{train["num_steps"]:,} updates'
  return (
    f'rate {optim["peak_lr"]:g}, batch {config["data"]["batch_size"]}, '
    f'{length}, LM {config["head"]["lm_coef"]:g}, {optim["variant"]}, '
    f'{run.facts["model"]["dtype"]}'
  )
