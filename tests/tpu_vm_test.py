"""launch/tpu_vm.sh against a gcloud that records its calls and can refuse.

The fake (fake_gcloud.py) runs what goes over ssh, so setup, detached runs,
preemption, logs and stop are the real scripts on two folders.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'goldens' / 'tpu_vm_dry_run.txt'
PLACE = ('--name=gpt1', '--zone=us-west4-a')
TYPE = ('--type=v5litepod-8', '--spot')
TRAIN = ('--', 'python', 'train.py', '--workdir=gs://b/run')
WORLD = {
  'queue': [],
  'node': '',
  'create': [],
  'queue_states': [],
  'refuse_ssh': 0,
  'refuse_start': 0,
  'preempt_at_step': '',
  'delete': '',
}
# A run that goes on from the bucket, as pretrain does: worker 0 writes steps.
# It waits at the step where the machines are to be taken away.
TRAIN_PY = """
import os, pathlib, time
from gpt1_jax.revision import COMMIT
assert COMMIT[:12] == os.path.basename(os.getcwd()), COMMIT
steps = pathlib.Path(os.environ['FAKE_CLOUD'], 'bucket/b/run/steps')
steps.parent.mkdir(parents=True, exist_ok=True)
done = int(steps.read_text()) if steps.exists() else 0
for step in range(done, int(os.environ.get('FAKE_STEPS', 8))):
  print('step', step, flush=True)
  time.sleep(100 if step == int(os.environ.get('FAKE_PREEMPTED', -1)) > done
             else 0.02)
  if os.environ['TPU_WORKER_ID'] == '0':
    new = steps.with_suffix('.tmp')
    new.write_text(str(step + 1))
    new.rename(steps)
"""
PREPARE_PY = """
import pathlib, sys
books, output, *more = [word.split('=')[1] for word in sys.argv[1:]]
text = ''.join(p.read_text() for p in sorted(pathlib.Path(books).iterdir()))
pathlib.Path(output).mkdir()
pathlib.Path(output, 'train-00000-of-00001.bin').write_text(text)
pathlib.Path(output, 'meta.json').write_text(','.join(more))
"""
PYTHON3 = f"""#!/bin/sh
case "$*" in *'uv venv'*) mkdir -p .venv/bin
  ln -sf {sys.executable} .venv/bin/python ;; esac
"""


@dataclasses.dataclass
class Cloud:
  """A repository of its own, the fake's folder, and ways to look at both."""

  path: pathlib.Path
  commit: str

  @property
  def repo(self) -> pathlib.Path:
    return self.path / 'repo'

  def run(self, *words: str, **env: str) -> subprocess.CompletedProcess:
    return self.bash('bash', f'{self.repo}/launch/tpu_vm.sh', *words, **env)

  def bash(self, *words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      words,
      check=False,
      capture_output=True,
      text=True,
      timeout=100,
      cwd=self.path,
      env={
        **os.environ,
        'PATH': f'{self.path}/bin:{os.environ["PATH"]}',
        'FAKE_CLOUD': str(self.path),
        'PYTHONDONTWRITEBYTECODE': '1',
        **env,
      },
    )

  def ok(self, *words: str, **env: str) -> subprocess.CompletedProcess:
    done = self.run(*words, **env)
    assert done.returncode == 0, done.stderr
    return done

  def fails(self, *words: str, **env: str) -> str:
    """The one error line of a step that must fail with exit code 1."""
    done = self.run(*words, **env)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if 'error' in line] == lines[-1:], lines
    return lines[-1]

  def calls(self) -> list[str]:
    """Kind and verb of each call, in order."""
    return [' '.join(words[2:4]) for words in self.raw_calls()]

  def raw_calls(self) -> list[list[str]]:
    path = self.path / 'calls.jsonl'
    if not path.exists():
      return []
    return [json.loads(line) for line in path.read_text().splitlines()]

  def world(self, **changes) -> dict:
    path = self.path / 'world.json'
    world = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(world))
    return world

  def reset(self) -> None:
    self.world(**WORLD)
    shutil.rmtree(self.path / 'workers', ignore_errors=True)
    (self.path / 'calls.jsonl').unlink(missing_ok=True)

  def log(self, worker: int, job: str = 'run') -> str:
    home = self.path / 'workers' / str(worker)
    return (home / 'gpt1_jax' / 'jobs' / job / 'log').read_text()


@pytest.fixture
def cloud(tmp_path):
  for name in ('bin', 'bucket', 'repo/gpt1_jax'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / 'world.json').write_text(json.dumps(WORLD))
  repo = tmp_path / 'repo'
  shutil.copytree(ROOT / 'launch', repo / 'launch')
  for name in ('.gitattributes', '.gitignore', 'gpt1_jax/__init__.py'):
    shutil.copy(ROOT / name, repo / name)
  for name in ('errors.py', 'train/memory.py', 'storage.py'):
    shutil.copy(ROOT / 'gpt1_jax' / name, repo / 'gpt1_jax' / name)
  (repo / 'gpt1_jax' / 'revision.py').write_text("COMMIT = '$Format:%H$'\n")
  (repo / 'gpt1_jax' / 'train').mkdir()
  (repo / 'gpt1_jax' / 'train' / '__init__.py').touch()
  shutil.copy(ROOT / 'gpt1_jax' / 'train' / 'run.py', repo / 'gpt1_jax/train')
  (repo / 'gpt1_jax' / 'pretrain.py').touch()
  (repo / 'gpt1_jax' / 'prepare.py').write_text(PREPARE_PY)
  (repo / 'train.py').write_text(TRAIN_PY)
  programs = {
    'gcloud': f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/fake_gcloud.py '
    '"$@"\n',
    'python3': PYTHON3,
  }
  for name, text in programs.items():
    (tmp_path / 'bin' / name).write_text(text)
    (tmp_path / 'bin' / name).chmod(0o755)
  git = ['git', '-C', str(repo), '-c', 'user.name=t', '-c', 'user.email=t@t']
  for words in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'all']):
    subprocess.run([*git, *words], check=True)
  commit = subprocess.run(
    [*git, 'rev-parse', '--short=12', 'HEAD'],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  made = Cloud(tmp_path, commit)
  yield made
  for group in tmp_path.glob('workers/*/gpt1_jax/jobs/*/group'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(group.read_text()), signal.SIGKILL)


GOLDEN_STEPS = (
  ('create', *PLACE, *TYPE, '--timeout=3600', '--create-flag=--network=my net'),
  ('create', *PLACE, '--direct', '--type=v4-32', '--project=my-project'),
  ('setup', *PLACE, '--ssh-flag=--internal-ip'),
  (
    *('prepare', *PLACE, '--books=gs://b/books', '--data=gs://b/data'),
    *('--', '--merges=8000', "--text_field=it's"),
  ),
  ('run', *PLACE, '--', 'python', '-m', 'gpt1_jax.pretrain', '--x=a b'),
  ('run', *PLACE, *TYPE, '--retry', '--delete-after', *TRAIN),
  ('logs', *PLACE, '--lines=5', '--output=my logs'),
  ('logs', *PLACE, '--job=prepare', '--worker=0', '--follow'),
  ('status', *PLACE),
  ('stop', *PLACE),
  ('delete', *PLACE),
)


def dry_runs(cloud) -> str:
  """What --dry-run prints for every step, with stable names."""
  parts = []
  for step in GOLDEN_STEPS:
    out = cloud.ok(*step[:3], '--dry-run', *step[3:]).stdout
    out = out.replace(str(cloud.repo), 'ROOT').replace(cloud.commit, 'COMMIT')
    parts.append(f'$ tpu_vm.sh {" ".join(step)}\n{out}')
  return '\n'.join(parts)


def test_dry_runs_are_as_agreed(cloud):
  """To agree to a change: write what this gives to the file, and read it."""
  assert dry_runs(cloud) == GOLDEN.read_text()
  assert cloud.calls() == []


@pytest.mark.parametrize(
  'steps',
  [
    [('create', *PLACE, *TYPE), ('setup', *PLACE), ('stop', *PLACE)],
    [('create', *PLACE, '--direct', '--type=v3-8'), ('delete', *PLACE)],
    [
      ('create', *PLACE, *TYPE),
      ('setup', *PLACE),
      ('run', *PLACE, '--', 'python', 'train.py', "a 'b' $c", 'd\ne'),
      ('logs', *PLACE),
    ],
  ],
)
def test_what_a_dry_run_prints_is_what_would_run(cloud, steps):
  """Its output, given to bash, makes the very same calls."""
  for step in steps:
    cloud.ok(*step, FAKE_STEPS='0')
  real = cloud.raw_calls()
  cloud.reset()
  for step in steps:
    script = cloud.ok(*step[:3], '--dry-run', *step[3:]).stdout
    cloud.bash('bash', '-c', script, FAKE_STEPS='0')
  assert cloud.raw_calls() == real


@pytest.mark.slow
def test_from_nothing_to_nothing(cloud):
  cloud.world(queue_states=['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'])
  done = cloud.ok('create', *PLACE, '--type=v6e-16', '--poll=0')
  assert '16 chips' in done.stderr
  assert 'WAITING_FOR_RESOURCES' in done.stderr
  assert '--runtime-version=v2-alpha-tpuv6e' in cloud.raw_calls()[0]
  cloud.ok('setup', *PLACE)
  out = cloud.ok('run', *PLACE, *TRAIN, FAKE_STEPS='1000').stdout
  assert out.count(f'run is started, commit {cloud.commit}') == 2
  out = cloud.ok('status', *PLACE).stdout
  for worker in (0, 1):
    assert f'worker {worker}: run: running, commit {cloud.commit}:' in out
    header = cloud.log(worker).splitlines()[0]
    assert f'worker {worker}, commit {cloud.commit}: ' in header
  # The same again is no other run; another is refused, and harms nothing.
  again = cloud.ok('run', *PLACE, *TRAIN).stdout
  assert again.count('was started before and is running') == 2
  message = cloud.fails('run', *PLACE, '--', 'true')
  assert 'another run is running' in message
  out = cloud.ok('logs', *PLACE, '--lines=1').stdout
  assert re.search(r'^\[worker 0\] step \d+$', out, re.MULTILINE)
  assert re.search(r'^\[worker 1\] step \d+$', out, re.MULTILINE)
  cloud.ok('stop', *PLACE)
  out = cloud.ok('status', *PLACE).stdout
  assert 'worker 0: run: exit 143' in out
  assert 'worker 1: run: exit 143' in out
  cloud.ok('delete', *PLACE)
  assert not cloud.world()['node']
  done = cloud.ok('delete', *PLACE)
  assert 'nothing named gpt1' in done.stderr
  assert 'nothing named gpt1' in cloud.fails('status', *PLACE)


def test_the_commit_is_shipped_and_not_the_tree(cloud):
  cloud.ok('create', *PLACE, *TYPE)
  (cloud.repo / 'train.py').write_text('changed')
  (cloud.repo / 'new.py').write_text('untracked')
  message = cloud.fails('setup', *PLACE)
  assert 'the tree has changes' in message
  assert 'tpu-vm scp' not in cloud.calls()
  cloud.ok('setup', *PLACE, '--ignore-changes')
  for worker in ('0', '1'):
    code = cloud.path / 'workers' / worker / 'gpt1_jax' / cloud.commit
    assert (code / 'train.py').read_text() == TRAIN_PY
    assert not (code / 'new.py').exists()
    assert not (code / '.git').exists()
    revision = (code / 'gpt1_jax' / 'revision.py').read_text()
    assert re.search(rf"COMMIT = '{cloud.commit}[0-9a-f]{{28}}'", revision)
  assert list((cloud.repo / 'build').iterdir()) == []


@pytest.mark.slow
def test_a_preempted_run_is_made_anew_and_goes_on(cloud):
  """Spot machines vanish at step 5: the next ones go on from the bucket."""
  cloud.world(preempt_at_step='5')
  done = cloud.ok(
    *('run', *PLACE, *TYPE, '--retry', '--poll=0', *TRAIN), FAKE_PREEMPTED='5'
  )
  assert 'gpt1 was preempted or deleted (SUSPENDED): again (1 of 100)' in (
    done.stderr
  )
  assert 'the run has ended well' in done.stderr
  assert cloud.calls().count('queued-resources create') == 2
  steps = re.findall(r'^step (\d+)$', cloud.log(0), re.MULTILINE)
  assert steps == ['5', '6', '7']
  assert 'gpt1 costs until' in done.stderr


def test_retry_takes_up_a_slice_that_is_there(cloud):
  """Even one made with --direct: it is not given back and made anew."""
  cloud.ok('create', *PLACE, *TYPE, '--direct')
  cloud.ok('run', *PLACE, *TYPE, '--retry', '--poll=0', *TRAIN)
  assert [call for call in cloud.calls() if 'create' in call] == [
    'tpu-vm create'
  ]
  assert not [call for call in cloud.calls() if 'delete' in call]


@pytest.mark.slow
def test_retries_end(cloud):
  cloud.world(create=['ok'], queue_states=['FAILED'], why='no spot left')
  message = cloud.fails(
    *('run', *PLACE, *TYPE, '--retry=2', '--poll=0', *TRAIN)
  )
  assert 'after 2 retries: no v5litepod-8 in us-west4-a' in message
  assert 'FAILED: no spot left' in message
  assert cloud.calls().count('queued-resources create') == 3
  assert not cloud.world()['queue']


@pytest.mark.slow
def test_a_run_that_fails_is_not_retried(cloud):
  """A program's own error ends it: exit code, worker and the others stopped."""
  script = 'import os, time; time.sleep(100 * int(os.environ["TPU_WORKER_ID"]))'
  words = ('python', '-c', f'{script}; raise SystemExit(3)')
  message = cloud.fails(
    *('run', *PLACE, *TYPE, '--retry', '--poll=0', '--', *words),
    '--workdir=gs://b/run',
  )
  assert re.search(
    r'worker 0: run: exit 3, commit \w+: .*\(see logs\)', message
  )
  assert cloud.calls().count('queued-resources create') == 1
  assert 'worker 1: run: exit 143' in cloud.ok('status', *PLACE).stdout


@pytest.mark.parametrize('direct', [(), ('--direct',)])
@pytest.mark.parametrize(
  ('refusal', 'advice'),
  [
    ('quota', 'no quota for v5litepod-8 in us-west4-a: ask for it'),
    ('capacity', 'no room for v5litepod-8 in us-west4-a now: try again later'),
    ('disabled', 'gcloud services enable tpu.googleapis.com'),
    ('forbidden', "Permission 'tpu.nodes.create' denied"),
  ],
)
def test_a_refused_slice_leaves_nothing(cloud, refusal, advice, direct):
  cloud.world(create=[refusal])
  assert advice in cloud.fails('create', *PLACE, *TYPE, *direct)
  assert cloud.calls()[-2:] == ['queued-resources delete', 'tpu-vm delete']
  assert not cloud.world()['node']


def test_a_name_that_is_taken_is_left_alone(cloud):
  cloud.world(create=['exists'], queue=['ACTIVE'], node='READY')
  assert 'gpt1 exists already' in cloud.fails('create', *PLACE, *TYPE)
  assert cloud.world()['node'] == 'READY'


def test_the_queue_is_left_after_the_timeout(cloud):
  cloud.world(queue_states=['WAITING_FOR_RESOURCES'])
  words = ('create', *PLACE, *TYPE, '--timeout=1', '--poll=1')
  message = cloud.fails(*words)
  assert 'not there after 1 seconds: WAITING_FOR_RESOURCES' in message
  assert '--valid-until-duration=1s' in cloud.raw_calls()[0]
  assert not cloud.world()['queue']


def test_what_cannot_be_given_back_is_said(cloud):
  """A slice that may still cost is never passed over in silence."""
  cloud.ok('create', *PLACE, *TYPE)
  cloud.world(delete='refused')
  message = cloud.fails('delete', *PLACE)
  assert 'gpt1 may still be there, and cost' in message
  assert 'UNAVAILABLE' in message


def test_ssh_refused_on_one_worker(cloud):
  cloud.ok('create', *PLACE, *TYPE)
  cloud.world(refuse_ssh=1)
  message = cloud.fails('setup', *PLACE)
  assert f'commit {cloud.commit} is not on every worker' in message
  assert list((cloud.repo / 'build').iterdir()) == []
  cloud.ok('setup', *PLACE)
  cloud.world(refuse_start=1)
  message = cloud.fails('run', *PLACE, *TRAIN, FAKE_STEPS='1000')
  assert 'run did not start on every worker' in message
  out = cloud.ok('status', *PLACE).stdout
  assert 'worker 0: run: exit 143' in out, 'not stopped on the other worker'
  assert 'worker 1: run: none' in out
  cloud.world(refuse_ssh=1)
  assert 'not stopped on every worker' in cloud.fails('stop', *PLACE)


def test_a_refused_ssh_is_tried_again_by_retry(cloud):
  cloud.world(refuse_ssh=2)
  cloud.ok(
    *('run', *PLACE, *TYPE, '--retry', '--poll=0', '--delete-after', *TRAIN)
  )
  assert cloud.calls().count('queued-resources create') == 1
  assert not cloud.world()['node']
  assert not cloud.world()['queue']


@pytest.mark.slow
def test_a_restarted_machine_starts_again(cloud):
  """No process and no exit code: `lost`, and run --retry starts it again."""
  cloud.ok('create', *PLACE, *TYPE)
  cloud.ok('setup', *PLACE)
  cloud.ok('run', *PLACE, *TRAIN, FAKE_STEPS='10000')
  jobs = cloud.path / 'workers' / '1' / 'gpt1_jax' / 'jobs' / 'run'
  os.killpg(int((jobs / 'group').read_text()), signal.SIGKILL)
  for _ in range(50):
    out = cloud.ok('status', *PLACE).stdout
    if 'worker 1: run: lost' in out:
      break
    time.sleep(0.1)
  assert 'worker 1: run: lost' in out
  done = cloud.ok('run', *PLACE, *TYPE, '--retry', '--poll=0', *TRAIN)
  assert 'the run has ended well' in done.stderr


def test_run_before_setup(cloud):
  cloud.ok('create', *PLACE, *TYPE)
  assert 'or setup was not run' in cloud.fails('run', *PLACE, *TRAIN)


@pytest.mark.slow
def test_prepare_reads_and_writes_the_bucket(cloud):
  books = cloud.path / 'bucket' / 'b' / 'books'
  books.mkdir(parents=True)
  (books / 'a.txt').write_text('one ')
  (books / 'b.txt').write_text('two')
  cloud.ok('create', *PLACE, *TYPE)
  cloud.ok('setup', *PLACE)
  places = ('--books=gs://b/books', '--data=gs://b/data', '--poll=0')
  words = ('prepare', *PLACE, *places, '--', '--merges=9')
  cloud.ok(*words)
  data = cloud.path / 'bucket' / 'b' / 'data'
  assert (data / 'meta.json').read_text() == '9'
  assert (data / 'train-00000-of-00001.bin').read_text() == 'one two'
  assert not (cloud.path / 'workers/1/gpt1_jax/jobs').exists()
  cloud.ok(*words)
  assert 'finished before, nothing to do' in cloud.log(0, 'prepare')


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (('creat',), "unknown step 'creat'"),
    (('create',), 'create needs --name=...'),
    (('create', '--name=gpt1'), 'create needs --zone=...'),
    (('create', *PLACE), 'create needs --type=..., v5litepod-16 for example'),
    (('create', *PLACE, 'v4-8'), "unexpected 'v4-8'"),
    (('create', *PLACE, '--type'), '--type needs a value: --type=...'),
    (('create', *PLACE, '--spot=no'), '--spot takes no value'),
    (('create', *PLACE, '--retry'), 'create takes no --retry'),
    (('create', *PLACE, *TYPE, '--poll=x'), '--poll=x: a whole number'),
    (('create', '--name=Gpt_1', '--zone=z'), '--name=Gpt_1: lower-case'),
    (('run', *PLACE), 'run needs a command'),
    (('run', *PLACE, '--retry', '--', 'a'), 'needs --workdir=gs://'),
    (('run', *PLACE, '--retry', *TRAIN), 'run needs --type=...'),
    (('run', *PLACE, '--delete-after', *TRAIN), 'needs --retry'),
    (('prepare', *PLACE, '--books=b'), 'prepare needs --books=gs://...'),
    (('logs', *PLACE, '--follow'), 'logs --follow needs --worker=N'),
    (('logs', *PLACE, '--job=x'), '--job=x: run or prepare'),
    (('logs', *PLACE, '--worker=x'), '--worker=x: a number, or all'),
  ],
)
def test_mistakes_cost_one_line_and_no_call(cloud, words, message):
  assert message in cloud.fails(*words)
  assert cloud.calls() == []


@pytest.mark.parametrize(
  ('kind', 'image', 'chips'),
  [
    ('v2-8', 'tpu-ubuntu2204-base', 4),
    ('v3-2048', 'tpu-ubuntu2204-base', 1024),
    ('v4-32', 'tpu-ubuntu2204-base', 16),
    ('v5litepod-1', 'v2-alpha-tpuv5-lite', 1),
    ('v5litepod-256', 'v2-alpha-tpuv5-lite', 256),
    ('v5p-12288', 'v2-alpha-tpuv5', 6144),
    ('v6e-16', 'v2-alpha-tpuv6e', 16),
  ],
)
def test_types_and_their_images(cloud, kind, image, chips):
  done = cloud.ok('create', *PLACE, f'--type={kind}', '--dry-run')
  assert f'--accelerator-type={kind} --runtime-version={image}\n' in done.stdout
  assert f' {chips} chips' in done.stderr


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('v2-16x', 'a power of two from 8 to 512'),
    ('v2-1024', 'a power of two from 8 to 512'),
    ('v4-12', 'a multiple of 8 from 8 to 8192'),
    ('v5litepod-2', 'one of 1 4 8 16 32 64 128 256'),
    ('v6e-512', 'one of 1 4 8 16 32 64 128 256'),
    ('v5e-16', 'Cloud calls it v5litepod-16'),
    ('tpu7x-16', 'on GKE only: launch/gke_jobset.yaml'),
    ('a100', 'unknown; v2-, v3-, v4-'),
  ],
)
def test_types_that_are_none(cloud, kind, message):
  assert message in cloud.fails('create', *PLACE, f'--type={kind}')


def test_help_tells_every_step_and_option(cloud):
  text = cloud.ok('--help').stdout
  script = (ROOT / 'launch' / 'tpu_vm.sh').read_text()
  table = re.search(r'declare -A takes=\((.*?)\n\)', script, re.DOTALL).group(1)
  for step, options in re.findall(r"\[(\w+)\]='(.*?)'", table, re.DOTALL):
    assert f'\n  {step} ' in text
    for option in options.split():
      assert f'--{option}' in text, option
  assert cloud.ok('create', '--help').stdout == text
  assert max(map(len, text.splitlines())) <= 80


def test_gcloud_is_missing(cloud):
  """Said before anything is done."""
  (cloud.path / 'bin' / 'gcloud').unlink()
  tools = cloud.path / 'tools'
  tools.mkdir()
  for name in ('bash', 'dirname', 'mktemp', 'rm'):
    (tools / name).symlink_to(shutil.which(name))
  done = cloud.run('delete', *PLACE, PATH=str(tools))
  assert done.returncode == 1
  assert done.stderr.startswith('error: gcloud is not installed')


def test_nothing_is_ended_by_its_name():
  for path in (ROOT / 'launch').glob('*.sh'):
    assert not re.search(r'\b(pkill|killall|pgrep)\b', path.read_text()), path


def test_an_archive_knows_its_commit(cloud):
  """An archive, unpacked anywhere: run.commit() is the commit's hash."""
  archive = cloud.path / 'code.tar'
  git = ('git', '-C', str(cloud.repo))
  cloud.bash(*git, 'archive', f'--output={archive}', 'HEAD')
  with tarfile.open(archive) as tar:
    tar.extractall(cloud.path / 'code', filter='data')
  done = subprocess.run(
    [
      *(sys.executable, '-c'),
      'from gpt1_jax.train import run; print(run.commit())',
    ],
    cwd=cloud.path / 'code',
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == cloud.commit


def test_the_commands_of_the_guide(cloud):
  """Each tpu_vm.sh command of docs/tpu.md is one that --dry-run takes."""
  text = (ROOT / 'docs' / 'tpu.md').read_text().replace('\\\n', ' ')
  commands = re.findall(r'^    launch/tpu_vm\.sh (.*)$', text, re.MULTILINE)
  steps = set()
  for command in commands:
    step, *words = shlex.split(command)
    cloud.ok(step, '--dry-run', *words)
    steps.add(step)
  script = (ROOT / 'launch' / 'tpu_vm.sh').read_text()
  assert steps == set(re.findall(r"^  \[(\w+)\]='", script, re.MULTILINE))


def test_the_messages_of_the_guide():
  """Each message that docs/tpu.md explains is one of the scripts' or hosts'."""
  scripts = ''.join(path.read_text() for path in (ROOT / 'launch').glob('*.sh'))
  text = (ROOT / 'docs' / 'tpu.md').read_text()
  table = text[text.index('| message |') :]
  messages = re.findall(r'^\| `(?:worker 1: run: )?(.*?)` \|', table, re.M)
  assert len(messages) == 10
  hangs = messages.pop(7)
  assert (
    re.fullmatch('host 1 of 4 (.*) for 100 s', hangs)[1]
    in (ROOT / 'gpt1_jax' / 'train/heartbeat.py').read_text()
  )
  for message in messages:
    words = re.sub(r'^another run| 1, ', '...', message).split('...')
    assert all(word.strip().removeprefix('run ') in scripts for word in words)
