"""launch/scaling.py: its recipes, and its page of made-up statistics."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Runs in a process of its own, since its flags have the names of `pretrain`'s.
SCRIPT = """
import dataclasses, json, sys
from absl import flags
import scaling
from gpt1_jax.compiler import out_of_memory, stats
from gpt1_jax.compiler.collectives import Collective
from gpt1_jax.train import chips
from tests.support import compiled_steps

flags.FLAGS(['scaling', '--output=docs', '--tokens=327680000'])

@dataclasses.dataclass
class Device:
  device_kind: str = 'TPU v5 lite'

def topology(*layout):
  name = 'v5e:' + 'x'.join(map(str, layout))
  return chips.Topology(name, 1, [Device()] * (layout[0] * layout[1]), layout)

slices = [topology(2, 2), topology(4, 4), topology(16, 16)]
recipes = [(b, t.name) for b, t in scaling.recipes(64, slices)]

asked = []
def compile_step(config, topology, vocab_size, num_steps):
  asked.append((config.mesh.data, config.mesh.tensor))
  return compiled_steps.made_up(
    fits=config.data.batch_size < 4096,
    memory=out_of_memory.HbmUse(2**33, 2**32, 2**32, 2**34),
    model_flops=1.6e12,
    bound=(0.01, 0.036),
    flops=2e12,
    collectives=(Collective('all-reduce', 10**6, 3, 4, 'ici'),),
  ), None, None

stats.compile_step = compile_step
config = compiled_steps.preset('paper')
rows = [
  scaling.compile_row(config, b, t) for b, t in scaling.recipes(64, slices)]
page, plot = scaling.page(rows, config), scaling.plot(rows)
print(json.dumps([recipes, asked, page, plot]))
"""


def test_page():
  done = subprocess.run(
    [sys.executable, '-c', SCRIPT],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "launch"}'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  recipes, asked, page, plot = json.loads(done.stdout.splitlines()[-1])
  assert recipes == [
    [64, 'v5e:2x2'],
    [64, 'v5e:4x4'],
    [64, 'v5e:16x16'],
    [256, 'v5e:4x4'],
    [4096, 'v5e:16x16'],
  ]
  # 256 chips and 64 sequences: four chips share a sequence's heads.
  assert asked == [[4, 1], [16, 1], [64, 4], [16, 1], [256, 1]]
  table = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in page.splitlines()
    if line.startswith('|')
  ]
  assert [row[:3] for row in table[2:4]] == [
    ['v5e:2x2', '4', '64'],
    ['v5e:4x4', '16', '64'],
  ]
  first = dict(zip(table[0], table[2], strict=True))
  assert first['HBM per device, GiB'] == '8.00 of 16.00'
  assert first['/ model FLOPs'] == '1.250'
  assert first['collectives per device, MB'] == '3'
  assert (first['step, at least, ms'], first['bound by']) == ('36.00', 'hbm')
  # 1.6 of the 2 TFLOP that take 10 of the 36 ms; 100 epochs of 10,000 updates.
  assert first['utilisation, at most'] == '22.2%'
  assert first['hours, 100 epochs, at least'] == '10.0'
  assert table[-1][4] == 'no'
  assert 'Compiled, not run' in page
  data = page.split('```json\n')[1].split('```')[0].splitlines()
  assert [json.loads(line)['batch_size'] for line in data] == [
    batch for batch, _ in recipes
  ]
  assert plot.count('<svg') == 1
