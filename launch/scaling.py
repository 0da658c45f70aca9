r"""Compiles the paper's recipe for TPU slices; writes scaling.md and .svg.

  python launch/scaling.py --output=docs --config.model.dtype=bfloat16

The step is compiled for every slice with the paper's batch of 64, and for the
larger slices of the first one's generation with 16 sequences per chip. Times
are estimates (`roofline.ASSUMPTIONS`), not measurements: nothing runs.
"""

import dataclasses
import datetime
import io
import json
import pathlib
import shlex
import sys
import textwrap
from collections.abc import Iterable

import checkout  # noqa: F401
import jax
from absl import flags
from matplotlib import figure

from gpt1_jax import cli, config as config_lib, storage
from gpt1_jax.compiler import executable, roofline, stats
from gpt1_jax.errors import UserError
from gpt1_jax.settings import MeshSettings
from gpt1_jax.train import chips, run

_CONFIG = cli.define_config(
  'configs/pretrain.py', 'Configuration file: configs/pretrain.py[:PRESET].'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder for scaling.md and scaling.svg.', required=True
)
_TOPOLOGIES = flags.DEFINE_list(
  'topologies',
  'v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16,v2:2x2,v3:2x2,v4:2x2x1,v4:2x2x4,'
  'v5p:2x2x1,v5p:2x2x4,v6e:2x2,v6e:4x4,tpu7x:2x2x1',
  'Slices: one generation from small to large, then any others.',
)
_VOCAB = flags.DEFINE_integer('vocab_size', 40_478, 'Size of the vocabulary.')
_EPOCHS = flags.DEFINE_integer('epochs', 100, 'Number of epochs.')  # P §4.1
# 34,000 batches of 64 x 512: docs/reference.md §1.
_TOKENS = flags.DEFINE_integer('tokens', 1_114_112_000, 'Tokens per epoch.')


@dataclasses.dataclass(frozen=True)
class Row:
  """A recipe on a slice, with statistics for one device."""

  topology: str
  chips: int
  batch_size: int
  mesh: MeshSettings
  stats: stats.CompileStats

  @property
  def sequences_per_second(self) -> float:
    """Estimated sequences per second; 0 without an estimate."""
    seconds = self.stats.step_seconds
    return self.batch_size / seconds if seconds else 0.0


def main() -> None:
  jax.config.update('jax_platforms', 'cpu')
  values = cli.config_values(_CONFIG.value)
  values['data']['path'] = values['data']['path'] or 'none'
  config = config_lib.parse(config_lib.PretrainConfig, values)
  topologies = [chips.topology(name, 1) for name in _TOPOLOGIES.value]
  rows = []
  for batch_size, topology in recipes(config.data.batch_size, topologies):
    rows.append(compile_row(config, batch_size, topology))
    seconds = rows[-1].stats.compile_seconds
    print(f'{topology.name}, batch {batch_size}: {seconds:.0f} s', flush=True)
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  storage.write_text(folder / 'scaling.svg', plot(rows))
  storage.write_text(folder / 'scaling.md', page(rows, config))


def recipes(
  batch_size: int, topologies: list[chips.Topology]
) -> Iterable[tuple[int, chips.Topology]]:
  """Yields a fixed batch on every slice, then batches that grow with chips.

  The batch grows only on slices of the first one's generation.
  """
  first = topologies[0]
  for topology in topologies:
    yield batch_size, topology
  for topology in topologies[1:]:
    if generation(topology.name) == generation(first.name):
      growth = len(topology.devices) // len(first.devices)
      yield batch_size * growth, topology


def generation(name: str) -> str:
  """Returns the part of a slice's name before its layout, such as 'v5e'."""
  return name.split(':')[0]


def compile_row(
  config: config_lib.PretrainConfig, batch_size: int, topology: chips.Topology
) -> Row:
  """Compiles the recipe; devices beyond the batch size go to the tensor axis.

  Raises:
    UserError: the batch and the heads do not split evenly over the devices.
  """
  num_devices = len(topology.devices)
  tensor = max(1, num_devices // batch_size)
  if getattr(config.model, 'n_head', 1) % tensor:
    raise UserError(
      f'{topology.name}: a batch of {batch_size} on {num_devices} devices '
      f'needs a tensor axis of {tensor}, which does not divide the heads'
    )
  mesh = dataclasses.replace(
    config.mesh, data=num_devices // tensor, fsdp=1, tensor=tensor
  )
  data = dataclasses.replace(config.data, batch_size=batch_size)
  changed = dataclasses.replace(config, mesh=mesh, data=data)
  found = stats.compile_step(changed, topology, _VOCAB.value, 1)[0]
  chip = chips.lookup(topology.kind)
  count = num_devices // (chip.devices if chip else 1)
  return Row(topology.name, count, batch_size, mesh, found)


def page(rows: list[Row], config: config_lib.PretrainConfig) -> str:
  """Returns the text of scaling.md."""
  windows = _EPOCHS.value * _TOKENS.value / config.model.n_ctx
  cells = [_cells(row, windows) for row in rows]
  lines = [list(cells[0]), ['---'] * len(cells[0])]
  lines += [list(row.values()) for row in cells]
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  data: list[dict[str, object]] = [
    {'slice': r.topology, 'batch_size': r.batch_size, **r.stats.to_json()}
    for r in rows
  ]
  objects = '\n'.join(map(json.dumps, data))
  opening = (
    "Figures from compiling the paper's recipe (P §4.1) for TPU slices. "
    '**Compiled, not run**: times and utilisations are estimates. Assumptions: '
    f'{roofline.ASSUMPTIONS}.'
  )
  command = shlex.join(['python', 'launch/scaling.py', *sys.argv[1:]])
  made = (
    f'- {datetime.date.today()}, commit {run.commit()}, jax {jax.__version__}, '
    f'libtpu {executable.libtpu_version()}; `{command}`.'
  )
  return f"""# Scaling on paper

{textwrap.fill(opening, 80)}

{textwrap.fill(made, 80, subsequent_indent='  ')}
- Hours are for {_EPOCHS.value} epochs of {_TOKENS.value:,} tokens:
  the paper's 3.4 million updates of 64 x 512 tokens. A larger batch takes fewer
  updates for the same tokens; we did not test if it learns equally well.
- The batch is sharded over the data axis. With more chips than sequences, the
  heads and the feed-forward layers are also sharded over the tensor axis.
- FLOPs and bytes count every loop in full; HBM traffic excludes VMEM.
- Utilisation is model FLOPs over the peak: with attention in full, as papers
  count it, and with causal attention halved.

{table}

![Estimated sequences per second and utilisation, by chips](scaling.svg)

The same data as JSON, one object per row:

```json
{objects}
```
"""


def _cells(row: Row, windows: float) -> dict[str, str]:
  """Returns a row's cells by heading; `windows` is the run's total."""
  memory, cost = row.stats.memory, row.stats.cost
  peak, capacity = (memory.peak or 0) / 2**30, (memory.capacity or 0) / 2**30
  out = {
    'slice': row.topology,
    'chips': str(row.chips),
    'batch': f'{row.batch_size:,}',
    'mesh (data x tensor)': f'{row.mesh.data} x {row.mesh.tensor}',
    'fits': 'yes' if cost else 'no',
    'HBM per device, GiB': f'{peak:.2f} of {capacity:.2f}',
  }
  names = (
    'FLOPs per device, T',
    '/ model FLOPs',
    'HBM traffic per device, GB',
    'collectives per device, MB',
    'step, ms',
    'most of it',
    'utilisation',
    'causal attention halved',
    f'hours, {_EPOCHS.value} epochs',
  )
  found = row.stats.estimate
  if not (cost and found):
    return out | dict.fromkeys(names, '-')
  seconds = windows / row.batch_size * found.step_seconds
  values = (
    f'{cost.flops / 1e12:.3f}',
    f'{cost.flops / row.stats.model_flops:.3f}',
    f'{cost.hbm_bytes / 1e9:.1f}',
    f'{cost.collective_bytes / 1e6:.0f}',
    f'{1e3 * found.step_seconds:.2f}',
    found.bottleneck,
    f'{row.stats.utilisation(row.stats.model_flops):.1%}',
    f'{row.stats.utilisation(row.stats.causal_flops):.1%}',
    f'{seconds / 3600:,.1f}',
  )
  return out | dict(zip(names, values, strict=True))


def _percent(found: stats.CompileStats) -> float:
  return 100 * (found.utilisation(found.model_flops) or 0)


def plot(rows: list[Row]) -> str:
  """Plots sequences per second and utilisation by chips, as SVG.

  Shows the slices of the first one's generation.
  """
  shown = generation(rows[0].topology)
  rows = [row for row in rows if generation(row.topology) == shown]
  canvas = figure.Figure(figsize=(9, 3.6), layout='constrained')
  left, right = canvas.subplots(1, 2)
  first = rows[0]
  same = [r for r in rows if r.batch_size == first.batch_size]
  grown = [first, *(r for r in rows if r.batch_size != first.batch_size)]
  for label, chosen in (
    (f'batch {first.batch_size}', same),
    (f'{first.batch_size // first.chips} sequences per chip', grown),
  ):
    chosen = [r for r in chosen if r.stats.estimate]
    count = [r.chips for r in chosen]
    for axes, values in (
      (left, [r.sequences_per_second for r in chosen]),
      (right, [_percent(r.stats) for r in chosen]),
    ):
      axes.plot(count, values, marker='o', label=label)
  left.set(xlabel='chips', ylabel='sequences per second')
  right.set(xlabel='chips', ylabel='utilisation (%)', ylim=(0, None))
  left.set_yscale('log', base=2)
  for axes in (left, right):
    axes.set_xscale('log', base=4)
    axes.legend()
    axes.grid(alpha=0.3)
  out = io.StringIO()
  canvas.savefig(out, format='svg', metadata={'Date': None})
  return out.getvalue()


if __name__ == '__main__':
  cli.run(main)
