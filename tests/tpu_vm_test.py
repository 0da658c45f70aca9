"""launch/tpu_vm.sh against a gcloud that records its calls and can refuse.

The fake (support/fake_gcloud.py) runs the commands that go over ssh, so that
setup, detached runs, preemption, logs and stop are the real script in the home
folders of two workers.
"""

import os
import re
import shlex
import shutil
import signal
import time

import pytest

from tests.support import tpu_cloud
from tests.support.tpu_cloud import PLACE, ROOT, SCRIPT, TRAIN_PY

GOLDEN = ROOT / 'tests' / 'goldens' / 'tpu_vm_dry_run.txt'
TYPE = ('--type=v5litepod-8', '--spot')
TRAIN = ('--', 'python', 'train.py', '--workdir=gs://b/run')
RETRY = ('run', *TYPE, '--retry', '--poll=0')


@pytest.fixture
def cloud(tmp_path):
  with tpu_cloud.write(tmp_path) as made:
    yield made


GOLDEN_STEPS = (
  ('create', *TYPE, '--timeout=3600', '--create-flag=--network=my net'),
  ('setup', '--ssh-flag=--internal-ip'),
  ('run', '--', 'python', '-m', 'gpt1_jax.pretrain', "--x=a 'b' $c"),
  (*RETRY, '--delete-after', *TRAIN),
  ('logs', '--lines=5'),
  ('logs', '--worker=0', '--follow'),
  *(('status',), ('stop',), ('delete',)),
)


def test_dry_runs_match_the_golden_file(cloud):
  """After an intended change: write the output to the file, and read it."""
  parts = []
  for step, *words in GOLDEN_STEPS:
    out, err = cloud.do(step, '--dry-run', *words)
    out = out.replace(f'{cloud.path}/', '').replace(cloud.commit, 'COMMIT')
    parts.append(f'$ tpu_vm.sh {" ".join((step, *PLACE, *words))}\n{out}')
    assert all(' would ' in f' {line}' for line in err.splitlines()), err
  assert '\n'.join(parts) == GOLDEN.read_text()
  assert cloud.calls() == []


def test_bash_runs_the_output_of_dry_run_as_the_script_would(cloud):
  """Expects the same calls from both, with every word quoted."""
  run = ('run', '--', 'python', 'train.py', "a 'b' $c", 'd\ne')
  steps = [
    ('create', *TYPE),
    ('setup',),
    run,
    ('logs',),
    ('stop',),
    ('delete',),
  ]
  for step in steps:
    cloud.do(*step, FAKE_STEPS='0')
  real = cloud.raw_calls()
  (cloud.path / 'calls.jsonl').unlink()
  for step, *words in steps:
    script, _ = cloud.do(step, '--dry-run', *words)
    cloud.bash('-c', script, FAKE_STEPS='0')
  assert cloud.raw_calls() == real


@pytest.mark.slow
def test_every_step_from_create_to_delete(cloud):
  cloud.world(queue_states=['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'])
  _, messages = cloud.do('create', '--type=v6e-16', '--poll=0')
  assert 'WAITING_FOR_RESOURCES' in messages
  assert '--runtime-version=v2-alpha-tpuv6e' in cloud.raw_calls()[0]
  assert 'or no setup' in cloud.fail('run', *TRAIN)
  cloud.do('setup')
  cloud.do('run', *TRAIN, FAKE_STEPS='1000')
  out, _ = cloud.do('status')
  for worker in (0, 1):
    assert f'worker {worker}: running, {cloud.commit}:' in out
    header = cloud.job(worker, 'log').splitlines()[0]
    assert f'worker {worker}: {cloud.commit} python train.py' in header
  # The same command is not started twice; another one is refused.
  cloud.do('run', *TRAIN)
  assert cloud.job(0, 'log').count('== ') == 1
  assert 'another command' in cloud.fail('run', '--', 'true')
  out, _ = cloud.do('logs', '--lines=1')
  for worker in (0, 1):
    assert re.search(rf'^\[worker {worker}\] step \d+$', out, re.MULTILINE)
  cloud.do('stop')
  out, _ = cloud.do('status')
  assert 'worker 0: exit 143' in out
  assert 'worker 1: exit 143' in out
  cloud.do('delete')
  assert cloud.nothing_is_billed()
  cloud.do('delete')
  assert 'nothing is named gpt1' in cloud.fail('status')


def test_setup_ships_the_commit_and_refuses_a_tree_with_changes(cloud):
  cloud.do('create', *TYPE)
  (cloud.path / 'repo' / 'train.py').write_text('changed')
  (cloud.path / 'repo' / 'new.py').write_text('untracked')
  for step in (('setup',), ('run', *TRAIN)):
    assert 'the tree has changes' in cloud.fail(*step)
  assert 'tpu-vm scp' not in cloud.calls()
  cloud.do('setup', '--ignore-changes')
  for worker in (0, 1):
    code = cloud.path / f'workers/{worker}/gpt1_jax/{cloud.commit}'
    assert (code / 'train.py').read_text() == TRAIN_PY
    assert not (code / 'new.py').exists()
    assert not (code / '.git').exists()
  assert list((cloud.path / 'tmp').iterdir()) == []


@pytest.mark.slow
def test_a_preempted_run_resumes_on_a_new_slice(cloud):
  cloud.world(preempt_at_step='5')
  _, messages = cloud.do(*RETRY, '--delete-after', *TRAIN, FAKE_PREEMPTED='5')
  assert 'preempted (SUSPENDED)\nstarting over (1 of 100)' in messages
  assert cloud.calls().count('queued-resources create') == 2
  assert (cloud.path / 'bucket' / 'steps').read_text() == '8'
  assert cloud.nothing_is_billed()


def test_retry_takes_over_a_slice_and_repeats_refused_calls(cloud):
  cloud.do('create', *TYPE)
  cloud.world(refuse_ssh=2)
  _, messages = cloud.do(*RETRY, *TRAIN)
  assert 'gpt1 may be billed' in messages
  assert cloud.calls().count('queued-resources create') == 1
  assert 'queued-resources delete' not in cloud.calls()


@pytest.mark.slow
def test_retry_starts_the_command_again_on_a_restarted_machine(cloud):
  cloud.do('create', *TYPE)
  cloud.do('setup')
  cloud.do('run', *TRAIN, FAKE_STEPS='10000')
  os.killpg(int(cloud.job(1, 'group')), signal.SIGKILL)
  deadline = time.monotonic() + 10
  while 'worker 1: lost' not in cloud.do('status')[0]:
    assert time.monotonic() < deadline
  cloud.do(*RETRY, *TRAIN)
  assert cloud.job(0, 'log').count('== ') == 2, 'both workers start again'


@pytest.mark.slow
def test_retries_are_counted(cloud):
  cloud.world(queue_states=['FAILED no spot left'])
  message = cloud.fail(*RETRY, '--retry=2', *TRAIN)
  assert 'could not create gpt1: FAILED no spot left' in message
  assert 'the run has failed after 2 retries' in message
  assert cloud.calls().count('queued-resources create') == 3
  assert cloud.nothing_is_billed()


@pytest.mark.slow
def test_a_failed_command_is_not_retried_and_is_stopped_everywhere(cloud):
  script = 'import os, time; time.sleep(100 * int(os.environ["TPU_WORKER_ID"]))'
  words = ('python', '-c', f'{script}; raise SystemExit(3)')
  message = cloud.fail(*RETRY, '--', *words, '--workdir=gs://b/run')
  assert f'worker 0: exit 3, {cloud.commit}' in message
  assert cloud.calls().count('queued-resources create') == 1
  assert 'worker 1: exit 143' in cloud.do('status')[0]


@pytest.mark.parametrize('refusal', ['quota', 'capacity', 'forbidden'])
def test_a_refused_slice_leaves_nothing_behind(cloud, refusal):
  cloud.world(create=[refusal])
  message = cloud.fail('create', *TYPE)
  assert 'could not create gpt1: ERROR: ' in message
  assert refusal[:5] in message.lower().replace('denied', 'forbidden')
  assert cloud.calls()[-1] == 'queued-resources delete'
  assert cloud.nothing_is_billed()


def test_an_existing_slice_is_left_alone(cloud):
  cloud.world(create=['exists'], queue=['ACTIVE'], node='READY')
  assert 'see status' in cloud.fail('create', *TYPE)
  assert cloud.world()['node'] == 'READY'


def test_a_failed_delete_says_that_the_slice_may_be_billed(cloud):
  cloud.do('create', *TYPE)
  cloud.world(delete='refused')
  message = cloud.fail('delete')
  assert 'gpt1 may still exist and be billed' in message
  assert 'UNAVAILABLE' in message


def test_a_run_starts_on_all_workers_or_on_none(cloud):
  cloud.do('create', *TYPE)
  cloud.world(refuse_ssh=1)
  assert 'was not copied to every worker' in cloud.fail('setup')
  cloud.do('setup')
  cloud.world(refuse_start=1)
  message = cloud.fail('run', *TRAIN, FAKE_STEPS='1000')
  assert 'did not start on every worker' in message
  out, _ = cloud.do('status')
  assert 'worker 0: exit 143' in out
  assert 'worker 1: none' in out


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (('creat',), "unknown step 'creat'"),
    (('create', '--zone='), "'--zone=': unknown option or wrong value"),
    (('create', 'v4-8'), "'v4-8': unknown option or wrong value"),
    (('create', '--poll=x'), "'--poll=x': unknown option or wrong"),
    (('create', '--type=v5e-16'), '--type=v5e-16: give v2-N'),
    (('create', '--type=tpu7x-8'), 'see launch/gke_jobset.yaml'),
    (('run',), 'run needs a command'),
    (('run', '--retry', '--', 'a'), 'needs --workdir=gs://'),
    (('run', '--delete-after', *TRAIN), 'needs --retry'),
  ],
)
def test_a_mistake_costs_one_line_and_no_call(cloud, words, message):
  (line,) = cloud.fail(*words).splitlines()
  assert message in line
  assert cloud.calls() == []


def test_name_and_zone_are_required(cloud):
  message = cloud.fail('create', place=('--name=gpt1',))
  assert message == 'error: create needs --name=... and --zone=...\n'
  assert cloud.calls() == []


def test_each_type_has_its_image(cloud):
  for kind, image in (
    ('v3-2048', 'tpu-ubuntu2204-base'),
    ('v5litepod-256', 'v2-alpha-tpuv5-lite'),
    ('v5p-12288', 'v2-alpha-tpuv5'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ):
    out, _ = cloud.do('create', f'--type={kind}', '--dry-run')
    assert f'--accelerator-type={kind} --runtime-version={image}\n' in out


def test_a_missing_gcloud_is_an_error_and_not_a_missing_slice(cloud):
  tools = cloud.path / 'tools'
  tools.mkdir()
  for name in ('bash', 'dirname', 'git'):
    (tools / name).symlink_to(shutil.which(name))
  message = cloud.fail('delete', PATH=str(tools))
  assert message == 'error: gcloud is missing\n'


def test_the_script_takes_the_commands_of_the_guide(cloud):
  text = (ROOT / 'docs' / 'tpu.md').read_text().replace('\\\n', ' ')
  found = re.findall(r'^    launch/tpu_vm\.sh (.*)$', text, re.MULTILINE)
  commands = [shlex.split(command) for command in found]
  for step, *words in commands:
    done = cloud.bash(SCRIPT, step, '--dry-run', *words)
    assert done.returncode == 0, done.stderr
  steps = 'create setup run status logs stop delete'
  assert {step for step, *_ in commands} == set(steps.split())
