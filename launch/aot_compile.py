r"""Compiles the train step for a slice of TPUs, on a machine that has none.

  python launch/aot_compile.py --config=configs/pretrain.py --topology=v5e:4x4

The step is the one that `pretrain` runs. Printed: whether it fits, memory,
FLOPs, bytes, collectives, and a bound on the step's time. Needs libtpu
(pip install '.[tpu]'); one such compilation at a time on a machine. With
--topology=local it is compiled for the devices of this machine.
"""

import datetime
import json
from typing import Any

import jax
import suggest
from absl import flags
from ml_collections import config_flags
from rich import console, table

from gpt1_jax import cli, config as config_lib
from gpt1_jax.compiler import (
  compiled as compiled_lib,
  executable,
  out_of_memory,
)
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips, sharding

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  'configs/pretrain.py',
  'Configuration file, with a preset: configs/pretrain.py:mini.',
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'Slice, such as v5e:4x4; or local.', required=True
)
_SLICES = flags.DEFINE_integer('slices', 1, 'Slices of that kind.')
_VOCAB = flags.DEFINE_integer(
  'vocab_size',
  40_478,
  'Entries of the tokenizer; not asked where config.data.path names shards.',
)
_STEPS = flags.DEFINE_integer(
  'num_steps',
  None,
  'Updates of the run, where neither the configuration nor shards tell; a '
  'saved executable is of this number.',
)
_JSON = flags.DEFINE_bool('json', False, 'One JSON object as the last line.')
_SUGGEST = flags.DEFINE_bool(
  'suggest', False, 'Search microbatches, remat and mesh for the fastest.'
)
_SAVE = flags.DEFINE_string(
  'save', None, 'File for the executable; `pretrain --executable` loads it.'
)


def main(argv: list[str]) -> None:
  del argv
  if _TOPOLOGY.value != 'local':
    jax.config.update('jax_platforms', 'cpu')  # leaves a TPU that is here alone
  config = _CONFIG.value.to_dict()
  config['data']['path'] = config['data']['path'] or ''  # not read here
  vocab_size, num_steps = sizes(config)
  where = (_TOPOLOGY.value, _SLICES.value)
  out = console.Console(highlight=False, soft_wrap=True)
  figures = built = None
  if _SUGGEST.value:
    config, figures = suggest.fastest(
      config,
      lambda changed: suggest.compile_apart(
        changed, *where, vocab_size, num_steps
      ),
      suggest.count_devices(*where),
      _SLICES.value,
      console.Console(stderr=True, highlight=False, soft_wrap=True),
    )
  topology = chips.topology(*where)
  if figures is None or _SAVE.value:
    figures, built = compiled_lib.compile_config(
      config, topology, vocab_size, num_steps
    )
  settings = config_lib.parse(config_lib.PretrainConfig, config)
  out.print(report(figures, topology, settings))
  if figures.fits:
    out.print('The bound assumes: ' + compiled_lib.ASSUMPTIONS + '.')
  else:
    out.print(
      f'{topology.name}: ' + out_of_memory.sentence(figures, settings),
      markup=False,
    )
  if _SUGGEST.value:
    out.print('The fastest that fits: ' + suggest.flags(config), markup=False)
  if _SAVE.value:
    if not figures.fits:
      raise UserError(f'--save={_SAVE.value}: nothing to save, see above')
    executable.save(_SAVE.value, *built, settings)
    out.print(f'{_SAVE.value}: written; pretrain --executable loads it')
  if _JSON.value:
    print(json.dumps(figures.to_json()), flush=True)


def sizes(config: dict[str, Any]) -> tuple[int, int]:
  """Entries of the vocabulary, and updates in all.

  Raises:
    UserError: --save, and nothing tells the number of updates.
  """
  path = config['data']['path']
  vocab_size = tokenization.load(path).vocab_size if path else _VOCAB.value
  num_steps = _STEPS.value or config['train']['num_steps']
  if _SAVE.value and not num_steps:
    raise UserError(
      '--save: give --num_steps, the updates of the run (its learning rate is '
      'part of the program); pretrain writes it to WORKDIR/config.json'
    )
  # The figures do not depend on it: it is a constant of the schedule.
  return vocab_size, num_steps or 1


def report(
  figures: compiled_lib.Figures,
  topology: chips.Topology,
  settings: config_lib.PretrainConfig,
) -> table.Table:
  """The figures of one device, as a table."""
  count = len(topology.devices)
  chip = chips.of(topology.kind)
  shape = ' x '.join(
    f'{n} {getattr(settings.mesh, n)}' for n in sharding.MESH_AXES
  )
  out = table.Table(
    title=f'{topology.name}, slices {topology.slices}: {count} devices '
    f'({topology.kind}), mesh {shape}, batch {settings.data.batch_size}',
    caption=f'{datetime.date.today()}, jax {jax.__version__}, libtpu '
    f'{executable.libtpu_version()}; all figures of one device',
  )
  out.add_column('what')
  out.add_column('figure', justify='right')
  for name, value in rows(figures):
    out.add_row(name, value)
  if chip and chip.devices > 1:
    out.add_row('devices a chip', str(chip.devices))
  return out


def rows(f: compiled_lib.Figures) -> list[tuple[str, str]]:
  """What the table says: name, figure."""

  def gib(n):
    return '?' if n is None else f'{n / 2**30:.2f} GiB'

  out = [
    ('fits', 'yes' if f.fits else 'NO'),
    ('HBM: arguments', gib(f.hbm_argument_bytes)),
    ('HBM: temporaries', gib(f.hbm_temp_bytes)),
    ('HBM: peak', gib(f.hbm_peak_bytes)),
    ('HBM: capacity', gib(f.hbm_capacity_bytes)),
    ('model FLOPs', f'{f.model_flops / 1e12:.4g} T'),
  ]
  if f.fits:
    out += [
      ('FLOPs', f'{f.flops / 1e12:.4g} T'),
      ('FLOPs / model FLOPs', f'{f.flops / f.model_flops:.3f}'),
      ('bytes accessed, as XLA counts', f'{f.bytes_accessed / 1e9:.2f} GB'),
      ('of them in HBM', f'{f.hbm_bytes / 1e9:.2f} GB'),
    ]
    groups = {(c['kind'], c['devices'], c['network']) for c in f.collectives}
    for kind, devices, network in sorted(groups):
      chosen = [
        c
        for c in f.collectives
        if (c['kind'], c['devices'], c['network']) == (kind, devices, network)
      ]
      total = sum(c['bytes'] * c['count'] for c in chosen)
      count = sum(c['count'] for c in chosen)
      parties = 'devices' if network == 'ici' else 'slices'
      out.append(
        (
          f'{kind} over {devices} {parties} ({network})',
          f'{count} x, {total / 1e6:.2f} MB in all',
        )
      )
    out += [
      (f'bound: {name}', f'{1e3 * s:.2f} ms') for name, s in f.seconds.items()
    ]
  if f.seconds:
    out += [
      ('bound on the step', f'{1e3 * f.estimated_step_seconds:.2f} ms'),
      ('bound on utilisation', f'{f.estimated_utilisation:.1%}'),
    ]
  if f.unknown_loops:
    out.append(('loops of unknown length, counted once', str(f.unknown_loops)))
  return [*out, ('compiled in', f'{f.compile_seconds:.1f} s')]


if __name__ == '__main__':
  cli.run(main)
