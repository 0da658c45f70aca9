"""A run first prints devices, model and data; rates exclude compilation."""

import dataclasses
import json

import jax

from gpt1_jax.train import opening, pace, run, telemetry
from tests.support import networks, updates
from tests.support.meshes import make_mesh

SETTINGS = dataclasses.replace(
  updates.pretrain_config().train, checkpoint_minutes=10.0, keep=3
)
PACE = pace.Pace(SETTINGS, eval_every=100, checkpoint_every=50)


def test_the_block_names_devices_model_data_and_files(tmp_path):
  program = updates.build(networks.GPT_CONFIG, make_mesh(2, 1, 1))
  described = run.Run(
    str(tmp_path / 'runs' / 'x'), {}, None, 'pretrain', 0, PACE, None
  )
  block = dict(opening.lines(program, described, 'books: 1,000 tokens', 4))
  assert block['devices'] == '2 cpu on 1 host, mesh data 2 x fsdp 1 x tensor 1'
  parameters = sum(x.size for x in jax.tree.leaves(program.state.params))
  assert block['model'] == f'gpt, {parameters:,} parameters, float32'
  assert block['data'] == 'books: 1,000 tokens'
  assert block['loss'] == 'nats per token'
  assert block['updates'] == f'{program.num_steps:,}, from checkpoint 4'
  assert block['checkpoints'].startswith(
    'every 50 updates, every 10 minutes, 1 MB each, the last 3 are kept, '
  )
  assert block['compiling'] == 'the first update; Ctrl-C waits for the compiler'
  assert not (tmp_path / 'runs').exists()  # only its free disk space is read


def test_a_finished_run_that_keeps_one_checkpoint(tmp_path):
  program = updates.build(networks.GPT_CONFIG, make_mesh(1, 1, 1))
  kept = dataclasses.replace(
    PACE, settings=dataclasses.replace(SETTINGS, keep=1)
  )
  described = run.Run(str(tmp_path), {}, None, 'pretrain', 0, kept, None)
  block = dict(opening.lines(program, described, 'x', program.num_steps))
  assert ' 1 MB each, the last is kept, ' in block['checkpoints']
  assert 'compiling' not in block


def test_an_idle_accelerator_is_named(tmp_path, monkeypatch):
  device = tmp_path / 'nvidia0'
  monkeypatch.setattr(opening, '_ACCELERATORS', {'cuda': (str(device),)})
  assert opening.idle_accelerator('cpu', {}) is None
  device.touch()
  assert opening.idle_accelerator('cpu', {}) == 'cuda'
  assert opening.idle_accelerator('gpu', {}) is None
  assert opening.idle_accelerator('cpu', {'JAX_PLATFORMS': 'cpu'}) is None


def test_no_rate_includes_the_update_that_compiles(
  tmp_path, monkeypatch, capsys
):
  now = [0.0]
  monkeypatch.setattr(telemetry.time, 'perf_counter', lambda: now[0])
  span = telemetry.Span(0, 11)
  with telemetry.Telemetry(str(tmp_path), 'pretrain', span, 1.0) as log:
    now[0] = 100.0
    log.compiled(1)
    log.update(1, 50)
    log.train(1, {'loss': 5.0})
    for step in range(2, 7):
      now[0] += 2.0
      log.update(step, 50)
    log.train(6, {'loss': 4.0})
  rows = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  assert rows == [
    {'step': 1, 'loss': 5.0},
    {'step': 6, 'loss': 4.0, 'tokens_per_second': 25.0, 'seconds': 10.0},
  ]
  assert capsys.readouterr().err.splitlines() == [
    'pretrain 1/11  compiled and applied one update in 100.0 s',
    'pretrain 1/11  loss 5.000',
    'pretrain 6/11  loss 4.000  25 tokens/s  0.2 min left',
  ]
