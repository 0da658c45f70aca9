"""launch/scaling.py chooses recipes and writes a page of made-up figures."""

import json

from tests.support import commands

# Runs in a process of its own, since its flags have the names of `pretrain`'s.
SCRIPT = """
import json, types
import matplotlib
from absl import flags
import scaling
from gpt1_jax.compiler import out_of_memory, stats
from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.train import chips
from tests.support import compiled_steps

flags.FLAGS(['scaling', '--output=docs', '--tokens=327680000'])

def topology(*layout, name='v5e', kind='TPU v5 lite'):
  name += ':' + 'x'.join(map(str, layout))
  device = types.SimpleNamespace(device_kind=kind)
  return chips.Topology(name, 1, [device] * (layout[0] * layout[1]), layout)

v6e = topology(4, 4, name='v6e', kind='TPU v6 lite')
slices = [topology(2, 2), topology(4, 4), topology(16, 16), v6e]
recipes = [(b, t.name) for b, t in scaling.recipes(64, slices)]

asked = []
def compile_step(config, topology, vocab_size, num_steps):
  asked.append((config.mesh.data, config.mesh.tensor))
  return compiled_steps.made_up(
    fits=config.data.batch_size < 4096,
    memory=out_of_memory.HbmUse(2**33, 2**32, 2**32, 2**34),
    model_flops=1.6e12,
    seconds=0.036,
    flops=2e12,
    collectives=(Collective('all-reduce', 10**6, 3, 4, 'ici'),),
  ), None, None

stats.compile_step = compile_step
config = compiled_steps.preset('paper')
rows = [
  scaling.compile_row(config, b, t) for b, t in scaling.recipes(64, slices)]
page = scaling.page(rows, config)
matplotlib.rcParams['svg.hashsalt'] = 'same'
of_first = [r for r in rows if scaling.generation(r.topology) == 'v5e']
plots = [scaling.plot(rows), scaling.plot(of_first), scaling.plot(rows[1:])]
print(json.dumps([recipes, asked, page, plots]))
"""


def test_page():
  out = commands.run_forked(SCRIPT).stdout
  recipes, asked, page, plots = json.loads(out.splitlines()[-1])
  assert recipes == [
    [64, 'v5e:2x2'],
    [64, 'v5e:4x4'],
    [64, 'v5e:16x16'],
    [64, 'v6e:4x4'],
    [256, 'v5e:4x4'],
    [4096, 'v5e:16x16'],
  ]
  # 256 chips and 64 sequences: four chips share a sequence's heads.
  assert asked == [[4, 1], [16, 1], [64, 4], [16, 1], [16, 1], [256, 1]]
  table = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in page.splitlines()
    if line.startswith('|')
  ]
  assert table[3][:3] == ['v5e:4x4', '16', '64']
  first = dict(zip(table[0], table[2], strict=True))
  expected = {
    'slice': 'v5e:2x2',
    'chips': '4',
    'batch': '64',
    'HBM per device, GiB': '8.00 of 16.00',
    '/ model FLOPs': '1.250',
    'collectives per device, MB': '3',
    'step, ms': '36.00',
    'most of it': 'kernels',
    # 1.6 of the 7.2 TFLOP that 36 ms hold.
    'utilisation': '22.2%',
    'causal attention halved': '20.0%',
    'hours, 100 epochs': '10.0',  # of 10,000 updates each
  }
  assert {name: first[name] for name in expected} == expected
  assert table[-1][4] == 'no'
  assert 'Compiled, not run' in ' '.join(page.split())
  data = page.split('```json\n')[1].split('```')[0].splitlines()
  assert [json.loads(line)['batch_size'] for line in data] == [
    batch for batch, _ in recipes
  ]
  # The other generation is in the table only.
  assert plots[0].count('<svg') == 1
  assert plots[0] == plots[1] != plots[2]
