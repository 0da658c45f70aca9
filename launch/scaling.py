r"""The paper's recipe on more and more chips, on paper: from the compiler.

  python launch/scaling.py --output=docs --config.model.dtype=bfloat16

Compiles the step for 4, 16, 64 and 256 chips of a version, with the paper's
batch of 64 and with 16 sequences a chip, and writes scaling.md and scaling.svg.
No TPU takes part: times are bounds (`compiled.ASSUMPTIONS`), not measurements.
"""

import dataclasses
import datetime
import io
import json
import pathlib
import textwrap
from collections.abc import Iterable
from typing import Any

import jax
from absl import flags
from matplotlib import figure
from ml_collections import config_flags

from gpt1_jax import cli, storage
from gpt1_jax.compiler import compiled, executable
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'configs/pretrain.py', 'Configuration file, with a preset.'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder for scaling.md and scaling.svg.', required=True
)
_TOPOLOGIES = flags.DEFINE_list(
  'topologies',
  'v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16',
  'Slices, the smallest first.',
)
_VOCAB = flags.DEFINE_integer('vocab_size', 40_478, 'Of the tokenizer.')
_EPOCHS = flags.DEFINE_integer('epochs', 100, 'Epochs to price.')  # P §4.1
_TOKENS = flags.DEFINE_integer(
  'tokens',
  1_114_112_000,  # 34,000 batches of 64 x 512: REFERENCE §1, ~3.4 M updates
  'Tokens of an epoch.',
)
_OPENING = (
  "What the compiler says of the paper's recipe (P §4.1) on more and more "
  'chips. **Compiled, not run**: no TPU took part. Times are bounds and '
  'utilisations the most that could be, with these assumptions: '
  f'{compiled.ASSUMPTIONS}.'
)


@dataclasses.dataclass(frozen=True)
class Row:
  """A recipe on a slice; `figures` of one device."""

  topology: str
  chips: int
  batch_size: int
  mesh: dict[str, int]
  figures: compiled.Figures

  @property
  def collective_bytes(self) -> int:
    return sum(c['bytes'] * c['count'] for c in self.figures.collectives)

  def hours(self, tokens: float, n_ctx: int) -> float | None:
    """Of training on so many tokens, at best."""
    seconds = self.figures.estimated_step_seconds
    return seconds and tokens / (self.batch_size * n_ctx) * seconds / 3600


def main(argv: list[str]) -> None:
  del argv
  jax.config.update('jax_platforms', 'cpu')
  config = _CONFIG.value.to_dict()
  config['data']['path'] = config['data']['path'] or ''
  rows = []
  for batch_size, topology in recipes(
    config['data']['batch_size'],
    [chips.topology(name, 1) for name in _TOPOLOGIES.value],
  ):
    rows.append(compile_row(config, batch_size, topology))
    print(
      f'{rows[-1].topology}, batch {batch_size}: '
      f'{rows[-1].figures.compile_seconds:.0f} s',
      flush=True,
    )
  folder = pathlib.Path(_OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  storage.write_text(folder / 'scaling.svg', plot(rows))
  storage.write_text(folder / 'scaling.md', page(rows, config))


def recipes(
  batch_size: int, topologies: list[chips.Topology]
) -> Iterable[tuple[int, chips.Topology]]:
  """The batch as it is on every slice, then grown with the chips."""
  first = len(topologies[0].devices)
  for topology in topologies:
    yield batch_size, topology
  for topology in topologies[1:]:
    yield batch_size * len(topology.devices) // first, topology


def compile_row(
  config: dict[str, Any], batch_size: int, topology: chips.Topology
) -> Row:
  """Compiles the recipe with the batch over data, as far as it goes.

  Raises:
    UserError: more devices than the batch and the heads can be spread over.
  """
  devices = len(topology.devices)
  tensor = max(1, devices // batch_size)
  if config['model']['n_head'] % tensor:
    raise UserError(
      f'{topology.name}: a batch of {batch_size} on {devices} devices leaves '
      f'{tensor} to the tensor axis, and heads do not divide by it'
    )
  mesh = {'data': devices // tensor, 'fsdp': 1, 'tensor': tensor}
  changed = {
    **config,
    'mesh': mesh,
    'data': {**config['data'], 'batch_size': batch_size},
  }
  figures, _ = compiled.compile_config(changed, topology, _VOCAB.value, 1)
  chip = chips.of(topology.kind)
  count = devices // chip.devices
  return Row(topology.name, count, batch_size, mesh, figures)


def page(rows: list[Row], config: dict[str, Any]) -> str:
  """scaling.md."""
  tokens, n_ctx = _EPOCHS.value * _TOKENS.value, config['model']['n_ctx']
  header = [
    'slice',
    'chips',
    'batch',
    'mesh (data x tensor)',
    'fits',
    'HBM a device, GiB',
    'FLOPs a device, T',
    '/ model FLOPs',
    'HBM traffic a device, GB',
    'collectives a device, MB',
    'bound on the step, ms',
    'by',
    'utilisation, at most',
    f'hours, {_EPOCHS.value} epochs, at least',
  ]
  lines = [
    header,
    ['---'] * len(header),
    *(cells(r, tokens, n_ctx) for r in rows),
  ]
  table = '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
  model = config['model']
  facts = [
    {'slice': r.topology, 'batch_size': r.batch_size, **r.figures.to_json()}
    for r in rows
  ]
  return f"""# Scaling on paper

{textwrap.fill(_OPENING, 80)}

- {datetime.date.today()}, jax {jax.__version__}, libtpu
  {executable.libtpu_version()}; `python launch/scaling.py --output=docs`,
  model.dtype={model['dtype']}, model.remat={model['remat']}.
- Hours are for {_EPOCHS.value} epochs of {_TOKENS.value:,} tokens: the paper's
  3.4 million updates of 64 x 512 (REFERENCE: derived). A larger batch makes
  fewer updates of the same tokens; that it learns as well is not claimed.
- The batch lies over the data axis; where there are more chips than sequences,
  the heads and the feed-forward are spread over the tensor axis too.
- FLOPs and bytes count every loop as often as it runs; HBM traffic leaves out
  what stays in VMEM.

{table}

![Sequences a second and utilisation, at most, by chips](scaling.svg)

The same as data, a row an object:

```json
{chr(10).join(json.dumps(f) for f in facts)}
```
"""


def cells(row: Row, tokens: float, n_ctx: int) -> list[str]:
  f = row.figures
  start = [
    row.topology,
    str(row.chips),
    f'{row.batch_size:,}',
    f'{row.mesh["data"]} x {row.mesh["tensor"]}',
    'yes' if f.fits else 'no',
    f'{(f.hbm_peak_bytes or 0) / 2**30:.2f} of '
    f'{(f.hbm_capacity_bytes or 0) / 2**30:.2f}',
  ]
  if not f.fits:
    return [*start, *['-'] * 8]
  hours = row.hours(tokens, n_ctx)
  return [
    *start,
    f'{f.flops / 1e12:.3f}',
    f'{f.flops / f.model_flops:.3f}',
    f'{f.hbm_bytes / 1e9:.1f}',
    f'{row.collective_bytes / 1e6:.0f}',
    f'{1e3 * f.estimated_step_seconds:.2f}',
    max(f.seconds, key=f.seconds.get),
    f'{f.estimated_utilisation:.1%}',
    f'{hours:,.1f}',
  ]


def plot(rows: list[Row]) -> str:
  """SVG: sequences a second and utilisation, by chips."""
  canvas = figure.Figure(figsize=(9, 3.6), layout='constrained')
  left, right = canvas.subplots(1, 2)
  fixed = rows[0].batch_size
  grown = [r for r in rows if r.batch_size != fixed]
  for label, chosen in (
    (f'batch {fixed}', [r for r in rows if r.batch_size == fixed]),
    (f'{fixed // rows[0].chips} sequences a chip', [rows[0], *grown]),
  ):
    chosen = [r for r in chosen if r.figures.seconds]
    count = [r.chips for r in chosen]
    rates = [r.batch_size / r.figures.estimated_step_seconds for r in chosen]
    left.plot(count, rates, marker='o', label=label)
    used = [100 * r.figures.estimated_utilisation for r in chosen]
    right.plot(count, used, marker='o', label=label)
  left.set(xlabel='chips', ylabel='sequences a second, at most')
  right.set(xlabel='chips', ylabel='utilisation, at most (%)', ylim=(0, None))
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
