"""Runs every command with its paths in a bucket, in separate processes.

The bucket is tests/support/fake_bucket.py; the libraries that speak to it are
real.
"""

import json

import jax
import numpy as np
import pytest

from tests.support import bucket_machine, commands, fake_bucket, small_runs

pytest.importorskip('gcsfs', reason='needs the gcs extra')

STEPS = 12
DATA, RUN, TASK = 'gs://bucket/data', 'gs://bucket/runs/gpt', 'gs://bucket/task'
TUNED = 'gs://bucket/runs/tuned'
TINY = (
  '--config=configs/pretrain.py:tiny',
  '--config.model.n_layer=1',
  '--config.model.n_embd=64',
  '--config.model.n_ctx=32',
  '--config.data.batch_size=8',
  f'--config.train.num_steps={STEPS}',
  '--config.train.eval_every=6',
  '--config.train.checkpoint_every=4',
  '--config.train.log_every=1',
)
TUNE = (
  '--config=configs/own_task.py:tiny',
  '--config.data.lengths=(32,)',
  '--config.train.num_steps=6',
)


@pytest.fixture(scope='module')
def machine(tmp_path_factory):
  """A machine with data and a task, on its disk and in the bucket."""
  with fake_bucket.serve() as bucket:
    machine = bucket_machine.Machine(bucket, tmp_path_factory.mktemp('machine'))
    data, task = machine.local['data'], machine.local['task']
    machine.run(
      'prepare',
      '--input=builtin:python-reference',
      f'--output={data}',
      '--merges=300',
      '--validation_fraction=0.02',
    )
    small_runs.write_task(task, train=20, dev=11)
    machine.put(data, DATA)
    machine.put(task, TASK)
    yield machine
    machine.forks.close()


@pytest.fixture(scope='module')
def straight(machine):
  """An uninterrupted run on a disk."""
  run = machine.local['run']
  machine.run(
    'pretrain',
    *TINY,
    f'--workdir={run}',
    f'--config.data.path={machine.local["data"]}',
  )
  return run


@pytest.fixture(scope='module')
def resumed(machine):
  """The same run in the bucket, killed and then resumed.

  Returns:
    Rows in the bucket when it was killed, and the step of its checkpoint.
  """
  options = (
    *TINY,
    f'--workdir={RUN}',
    f'--config.data.path={DATA}',
    machine.staged,
  )
  first = machine.start('pretrain', *options)
  done = 'bucket/runs/gpt/checkpoints/{}/commit_success.txt'
  with commands.ending(first):
    commands.await_until(
      first, lambda: done.format(4) in machine.bucket.objects
    )
    first.kill()
  step = max(s for s in (4, 8, 12) if done.format(s) in machine.bucket.objects)
  text = machine.text(f'{RUN}/metrics.jsonl')
  machine.run('pretrain', *options)
  return [json.loads(line) for line in text.splitlines()], step


@pytest.mark.slow
def test_a_killed_run_resumes_from_the_bucket(machine, straight, resumed):
  rows, step = resumed
  # The rows of all updates in the checkpoint are there.
  losses = [row['step'] for row in rows if 'loss' in row]
  assert losses[:step] == list(range(1, step + 1))
  assert machine.rows(RUN) == small_runs.rows(straight)
  scores = json.loads(machine.text(f'{RUN}/scores.json'))
  assert scores == json.loads((straight / 'scores.json').read_text())
  facts = json.loads(machine.text(f'{RUN}/config.json'))
  assert facts['config']['data']['path'] == DATA
  names = machine.bucket.objects
  assert any('/runs/gpt/tensorboard/events.out' in name for name in names)
  assert not any(name.endswith('.tmp') for name in names)


@pytest.mark.slow
def test_its_parameters_equal_those_of_the_run_on_a_disk(
  machine, straight, resumed
):
  code = (
    'import sys, numpy as np, jax\n'
    'from gpt1_jax.train import checkpoint\n'
    'params, meta, step = checkpoint.read(sys.argv[1])\n'
    'np.savez(sys.argv[2], *jax.tree.leaves(params), step=step)\n'
  )
  out = machine.folder / 'params.npz'
  commands.succeed('-c', code, RUN, out, **machine.bucket.environment())
  from gpt1_jax.train import checkpoint

  params, _, step = checkpoint.read(str(straight))
  there = np.load(out)
  assert int(there['step']) == step == STEPS
  for i, leaf in enumerate(jax.tree.leaves(params)):
    np.testing.assert_array_equal(there[f'arr_{i}'], leaf)


@pytest.mark.slow
def test_shards_are_copied_once(machine, resumed):
  machine.run('evaluate', f'--workdir={RUN}', machine.staged)
  shards = [name for name in machine.bucket.objects if name.endswith('.bin')]
  assert shards
  for name in shards:
    assert machine.bucket.reads(name.rpartition('/')[2]) == 1
  (copy,) = machine.stage.glob(f'data-{"[0-9a-f]" * 20}')
  for file in machine.local['data'].iterdir():
    assert (copy / 'data' / file.name).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_other_commands_give_the_same_results(machine, straight, resumed):
  out, _ = machine.run('evaluate', f'--workdir={RUN}', machine.staged)
  here, _ = machine.run('evaluate', f'--workdir={straight}')
  assert json.loads(out) == json.loads(here) | {'data': DATA}
  options = ('--prompt=the', '--max_tokens=5', '--greedy')
  out, _ = machine.run('generate', f'--workdir={RUN}', *options)
  assert out == machine.run('generate', f'--workdir={straight}', *options)[0]

  tuned = machine.local['tuned']
  machine.run(
    'finetune',
    *TUNE,
    f'--config.init_from={straight}',
    f'--config.data.path={machine.local["task"]}',
    f'--workdir={tuned}',
  )
  machine.run(
    'finetune',
    *TUNE,
    f'--config.init_from={RUN}',
    f'--config.data.path={TASK}',
    f'--workdir={TUNED}',
    machine.staged,
  )
  name = 'predictions/dev.tsv'
  assert machine.text(f'{TUNED}/{name}') == (tuned / name).read_text()

  machine.run('report', '--runs=gs://bucket/runs', '--output=gs://bucket/page')
  page = machine.text('gs://bucket/page/results.md')
  assert '| gpt ' in page
  assert '| tuned ' in page
  assert 'gs://bucket/page/report.html'.removeprefix('gs://') in (
    machine.bucket.objects
  )
  # The bucket was asked for no copying, composing or renaming.
  asked = [path for _, path, _ in machine.bucket.requests]
  assert not [path for path in asked if 'rewriteTo' in path or 'copyTo' in path]


@pytest.mark.slow
def test_weights_are_converted_to_another_library_and_back(machine, resumed):
  pytest.importorskip('safetensors', reason='needs the openai extra')
  machine.run('convert', f'--input={RUN}', '--output=gs://bucket/hf')
  assert 'bucket/hf/config.json' in machine.bucket.objects
  machine.run(
    'convert',
    '--input=gs://bucket/hf',
    '--output=gs://bucket/back',
    machine.staged,
  )
  options = ('--prompt=the', '--max_tokens=5', '--greedy')
  there, back = (
    machine.run('generate', f'--workdir={workdir}', *options)[0]
    for workdir in (RUN, 'gs://bucket/back')
  )
  assert there == back
  _, err = machine.run(
    'convert', f'--input={RUN}', '--output=gs://bucket/hf', code=2
  )
  line = 'error: gs://bucket/hf: already exists; use another --output'
  assert err.splitlines()[1:] == [line]


@pytest.mark.slow
def test_zero_shot_tasks_are_read_from_the_bucket(machine, straight):
  cola = machine.folder / 'zero_shot' / 'CoLA'
  cola.mkdir(parents=True)
  for split, count in (('train', 30), ('dev', 20)):
    lines = [f'x\t{i % 2}\t\tThe object number {i} is.\n' for i in range(count)]
    (cola / f'{split}.tsv').write_text(''.join(lines))
  machine.put(cola.parent, 'gs://bucket/zero_shot')
  here, there = (
    machine.run(
      'evaluate',
      f'--workdir={straight}',
      '--suite=zero_shot',
      '--tasks=cola',
      f'--tasks_path={path}',
      *more,
    )[0]
    for path, more in (
      (cola.parent, ()),
      ('gs://bucket/zero_shot', (machine.staged,)),
    )
  )
  assert 'cola' in here
  assert here == there


@pytest.mark.slow
def test_a_compiled_step_is_saved_in_the_bucket(machine, straight):
  step = 'gs://bucket/step'
  options = (*TINY, f'--config.data.path={DATA}')
  machine.run(
    'launch/aot_compile.py', *options, '--topology=local', f'--save={step}'
  )
  assert 'bucket/step' in machine.bucket.objects
  workdir = 'gs://bucket/runs/compiled'
  machine.run(
    'pretrain',
    *options,
    f'--workdir={workdir}',
    f'--executable={step}',
    machine.staged,
  )
  assert machine.rows(workdir) == small_runs.rows(straight)


def test_mistakes_are_reported_in_one_line(machine):
  for command, options, words in (
    ('evaluate', ['--workdir=gs://bucket/no'], 'gs://bucket/no: not a run'),
    (
      'pretrain',
      [*TINY, '--workdir=gs://bucket/x', '--config.data.path=gs://bucket/no'],
      'gs://bucket/no: no prepared shards here',
    ),
    ('generate', ['--workdir=s3://bucket/x'], 's3://bucket/x: give a'),
    (
      'prepare',
      ['--input=builtin:python-reference', '--output=gs://bucket/x'],
      'copy them to the bucket afterwards',
    ),
  ):
    _, err = machine.run(command, *options, code=2)
    assert words in err
    first = '; loading JAX'  # of the line before the error
    assert len([x for x in err.splitlines() if first not in x]) == 1, err
