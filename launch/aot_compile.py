r"""Compiles the train step for a TPU slice, on a machine without TPUs.

  python launch/aot_compile.py --config=configs/pretrain.py --topology=v5e:4x4

Reports whether the step of `pretrain` fits, its memory, FLOPs, bytes and
collectives, and estimates its time by kind of operation. Needs libtpu (pip
install '.[tpu]'), which only one process per machine can use at a time.
--topology=local compiles for this machine's devices.
"""

import collections
import datetime
import json
import math

import checkout  # noqa: F401
import jax
import suggest
from absl import flags
from rich import console, table

from gpt1_jax import cli, config as config_lib
from gpt1_jax.compiler import executable, out_of_memory, roofline, stats
from gpt1_jax.corpus import tokenization
from gpt1_jax.errors import UserError
from gpt1_jax.train import chips

_CONFIG = cli.define_config(
  'configs/pretrain.py', 'Configuration file: configs/pretrain.py[:PRESET].'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'TPU slice, such as v5e:4x4, or local.', required=True
)
_SLICES = flags.DEFINE_integer('slices', 1, 'Number of slices.')
_VOCAB = flags.DEFINE_integer(
  'vocab_size', 40_478, 'Vocabulary size; ignored if config.data.path is set.'
)
_STEPS = flags.DEFINE_integer(
  'num_steps', None, 'Updates; --save needs it if config.train.num_steps is 0.'
)
_JSON = flags.DEFINE_bool('json', False, 'Print a JSON object as last line.')
_SUGGEST = flags.DEFINE_bool(
  'suggest', False, 'Search microbatches, remat and mesh for the fastest step.'
)
_SAVE = flags.DEFINE_string(
  'save', None, 'File for the executable, which pretrain --executable loads.'
)


def main() -> None:
  where = (_TOPOLOGY.value, _SLICES.value)
  if _TOPOLOGY.value != 'local':
    jax.config.update('jax_platforms', 'cpu')  # leaves this machine's TPU alone
  values = cli.config_values(_CONFIG.value)
  values['data']['path'] = values['data']['path'] or 'none'  # optional here
  config = config_lib.parse(config_lib.PretrainConfig, values)
  sizes = _sizes(config)
  out = console.Console(highlight=False, soft_wrap=True)
  compiled, found = None, None
  if _SUGGEST.value:
    config, found = suggest.fastest(
      config,
      lambda changed: suggest.compile_in_process(changed, *where, *sizes),
      suggest.count_devices(*where),
      _SLICES.value,
      console.Console(stderr=True, highlight=False, soft_wrap=True),
    )
  topology = chips.topology(*where)
  if _SAVE.value:  # a step that came from jax's cache may not load again
    jax.config.update('jax_enable_compilation_cache', False)
  if found is None or _SAVE.value:
    found, program, compiled = stats.compile_step(config, topology, *sizes)
  out.print(_report(found, topology, config))
  if found.fits:
    if found.estimate:
      out.print(_parts(found.estimate))
    out.print(f'The estimate assumes: {roofline.ASSUMPTIONS}.')
  else:
    why = out_of_memory.explain(found.memory, found.buffers, config)
    out.print(f'{topology.name}: {why}', markup=False)
  if _SUGGEST.value:
    out.print(f'The fastest that fits: {suggest.flags(config)}', markup=False)
  if _SAVE.value:
    if compiled is None:
      raise UserError(f'--save={_SAVE.value}: the step does not fit, see above')
    executable.save(_SAVE.value, program, compiled, config)
    out.print(f'{_SAVE.value}: written; load it with pretrain --executable')
  if _JSON.value:
    print(json.dumps(found.to_json()), flush=True)


def _sizes(config: config_lib.PretrainConfig) -> tuple[int, int]:
  """Returns the vocabulary size and the total number of updates.

  Raises:
    UserError: --save is given but the number of updates is unknown.
  """
  path = config.data.path
  vocab_size = (
    tokenization.load(path).vocab_size if path != 'none' else _VOCAB.value
  )
  num_steps = _STEPS.value or config.train.num_steps
  if _SAVE.value and not num_steps:
    raise UserError(
      '--save: give --num_steps, the total number of updates: the compiled '
      'learning-rate schedule depends on it. pretrain writes it to '
      'WORKDIR/config.json'
    )
  return vocab_size, num_steps or 1  # only a constant in the schedule


def _report(
  found: stats.CompileStats,
  topology: chips.Topology,
  config: config_lib.PretrainConfig,
) -> table.Table:
  count, chip = len(topology.devices), chips.lookup(topology.kind)
  sizes = config.mesh.axes
  rest = count // abs(math.prod(sizes.values()))  # size of the axis that is -1
  mesh = ' x '.join(f'{n} {s if s > 0 else rest}' for n, s in sizes.items())
  out = table.Table(
    title=f'{topology.name}, slices {topology.slices}: {count} devices '
    f'({topology.kind}), mesh {mesh}, batch {config.data.batch_size}',
    caption=f'{datetime.date.today()}, jax {jax.__version__}, libtpu '
    f'{executable.libtpu_version()}; all figures per device',
  )
  out.add_column('measure')
  out.add_column('value', justify='right')
  for name, value in _rows(found):
    out.add_row(name, value)
  if chip and chip.devices > 1:
    out.add_row('devices per chip', str(chip.devices))
  return out


def _rows(found: stats.CompileStats) -> list[tuple[str, str]]:
  out = [('fits', 'yes' if found.fits else 'NO')]
  for name in ('arguments', 'temp', 'peak', 'capacity'):
    size = getattr(found.memory, name)
    gib = '?' if size is None else f'{size / 2**30:.2f} GiB'
    label = 'temporaries' if name == 'temp' else name
    out.append((f'HBM: {label}', gib))
  model = {
    'model FLOPs': found.model_flops,
    'model FLOPs, causal attention halved': found.causal_flops,
  }
  out += [(name, f'{flops / 1e12:.4g} T') for name, flops in model.items()]
  cost = found.cost
  if cost:
    out += [
      ('FLOPs', f'{cost.flops / 1e12:.4g} T'),
      ('FLOPs / model FLOPs', f'{cost.flops / found.model_flops:.3f}'),
      ('bytes accessed (XLA)', f'{cost.bytes_accessed / 1e9:.2f} GB'),
      ('bytes in HBM', f'{cost.hbm_bytes / 1e9:.2f} GB'),
    ]
    groups = collections.defaultdict(list)
    for c in cost.collectives:
      groups[c.kind, c.devices, c.network].append(c)
    for (kind, devices, network), chosen in sorted(groups.items()):
      count = sum(c.count for c in chosen)
      size = sum(c.total_bytes for c in chosen)
      parties = 'devices' if network == 'ici' else 'slices'
      name = f'{kind} over {devices} {parties} ({network})'
      out.append((name, f'{count} x, {size / 1e6:.2f} MB in total'))
    if found.estimate:
      out.append(
        ('estimate: step', f'{1e3 * (found.step_seconds or 0):.2f} ms')
      )
      out += [
        (f'estimate: {name} / peak', f'{found.utilisation(flops):.1%}')
        for name, flops in model.items()
      ]
    if loops := cost.unknown_loops:
      out.append(('loops of unknown length, counted once', str(loops)))
  return [*out, ('compile time', f'{found.compile_seconds:.1f} s')]


def _parts(found: roofline.Estimate) -> table.Table:
  """Returns the estimate by kind of operation, in milliseconds."""
  out = table.Table(title='Estimated time of a step, in ms')
  for column in ('kind of operation', 'time', 'matrix unit', 'HBM', 'vector'):
    out.add_column(column, justify='left' if not out.columns else 'right')
  for kind, part in found.parts.items():
    values = (part.seconds, part.mxu, part.hbm, part.vector)
    out.add_row(kind, *(f'{1e3 * value:.2f}' for value in values))
  return out


if __name__ == '__main__':
  cli.run(main)
