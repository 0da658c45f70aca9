"""Tests the image, the GKE manifest and the Slurm job of launch/.

goldens/jobset.schema.json has the fields of the JobSet CRD, and its source.
"""

import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys

import jsonschema
import pytest
import yaml

from gpt1_jax import revision
from gpt1_jax.train import run

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch'
MANIFEST = (LAUNCH / 'gke_jobset.yaml').read_text()
SPEC = yaml.safe_load(MANIFEST)['spec']
(JOB,) = [job['template']['spec'] for job in SPEC['replicatedJobs']]
POD = JOB['template']['spec']
(CONTAINER,) = POD['containers']


def test_commit_without_git(monkeypatch, tmp_path):
  """Without .git the commit comes from revision.py, if that is filled in."""
  monkeypatch.setattr(run, '__file__', str(tmp_path / 'a' / 'b' / 'run.py'))
  monkeypatch.setattr(revision, 'COMMIT', '$Format:%H$')
  assert run.commit() is None
  monkeypatch.setattr(revision, 'COMMIT', '0123456789abcdef' * 2 + '01234567')
  assert run.commit() == '0123456789ab'


def test_git_archive_fills_in_the_revision():
  assert re.fullmatch(r'\$Format:%H\$|[0-9a-f]{40}', revision.COMMIT)
  attributes = (ROOT / '.gitattributes').read_text().split()
  assert attributes == ['gpt1_jax/revision.py', 'export-subst']


def instructions() -> list[tuple[str, str]]:
  """Returns (instruction, arguments) of the Dockerfile, lines joined."""
  lines = (LAUNCH / 'Dockerfile').read_text().splitlines()
  text = '\n'.join(line for line in lines if not line.startswith('#'))
  text = text.replace('\\\n', '')
  return [
    tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()
  ]


def test_dockerfile_is_valid_and_runs_as_an_ordinary_user():
  known = 'ARG CMD COPY ENV FROM LABEL RUN USER WORKDIR'
  names = [name for name, _ in instructions()]
  last = dict(instructions())
  assert set(names) <= set(known.split())
  assert names[0] == 'FROM'
  assert names.index('USER') < names.index('CMD')
  assert (last['FROM'], last['USER']) == ('python:3.12-slim', 'gpt1')
  assert isinstance(json.loads(last['CMD']), list)
  for name, arguments in instructions():
    if name == 'RUN':
      subprocess.run(['sh', '-n', '-c', arguments], check=True)


def test_dockerfile_copies_tracked_files():
  copies = [
    shlex.split(words) for name, words in instructions() if name == 'COPY'
  ]
  copied = {source for *sources, _ in copies for source in sources}
  assert copied == {'setup.py', 'pyproject.toml', 'gpt1_jax', 'configs'}
  words = ['git', 'ls-files', '--', *copied]
  tracked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  for source in copied:
    assert (ROOT / source).exists(), source
    if tracked.returncode == 0:  # the tests also run without git
      assert source in tracked.stdout, f'{source} is not in an archive'


def test_dockerfile_records_the_commit(tmp_path):
  """The RUN line takes the build argument, and refuses without it."""
  (line,) = (text for name, text in instructions() if 'revision.py' in text)
  (tmp_path / 'gpt1_jax').mkdir()
  hash_ = '89abcdef' * 5

  def shell(**env):
    return subprocess.run(
      ['sh', '-c', line], cwd=tmp_path, env=env, capture_output=True, text=True
    )

  assert shell(COMMIT=hash_).returncode == 0
  written = (tmp_path / 'gpt1_jax' / 'revision.py').read_text()
  assert written == f"COMMIT = '{hash_}'\n"
  done = shell()
  assert done.returncode == 1
  assert 'give --build-arg=COMMIT=...' in done.stdout


def table_rows() -> list[tuple[str, str, str, int, int]]:
  """Returns the rows of the table at the head of the manifest."""
  rows = re.findall(
    r'^#   (\S+) +(tpu\S*) +([\dx]+) +(\d+) +(\d+)$', MANIFEST, re.MULTILINE
  )
  return [(*row[:3], int(row[3]), int(row[4])) for row in rows]


def test_manifest_matches_the_schema():
  schema = json.loads((ROOT / 'tests/goldens/jobset.schema.json').read_text())
  manifest = yaml.safe_load(MANIFEST)
  jsonschema.Draft202012Validator.check_schema(schema)
  validator = jsonschema.Draft202012Validator(schema)
  validator.validate(manifest)
  # The schema refuses unknown fields.
  manifest['spec']['replicatedJobs'][0]['template']['spec']['paralelism'] = 4
  assert not validator.is_valid(manifest)


def test_manifest_runs_pretrain_on_all_hosts():
  assert CONTAINER['args'][:3] == ['python', '-m', 'gpt1_jax.pretrain']
  assert '--multihost=on' in CONTAINER['args']
  assert sum(a.startswith('--workdir=gs://') for a in CONTAINER['args']) == 1


def test_the_memory_lock_is_lifted_and_the_user_is_an_ordinary_one(tmp_path):
  """The shell passes on the arguments; setpriv stands in for root's."""
  context = CONTAINER['securityContext']
  assert context['capabilities']['add'] == ['SYS_RESOURCE']
  fake = tmp_path / 'setpriv'
  fake.write_text('#!/bin/sh\nulimit -l\nprintf "%s\\n" "$@"\n')
  fake.chmod(0o755)
  shell, flag, line, *rest = CONTAINER['command']
  done = subprocess.run(
    [shell, flag, f'ulimit() {{ echo "$@"; }}; {line}', *rest, 'a b', 'c'],
    env={'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
    capture_output=True,
    text=True,
    check=True,
  )
  limit, _, *words = done.stdout.splitlines()
  assert limit == '-l unlimited'
  user = ['--reuid=1000', '--regid=1000', '--clear-groups']
  assert words == [*user, 'env', 'HOME=/home/gpt1', 'a b', 'c']
  assert ('RUN', 'useradd --create-home --uid=1000 gpt1') in instructions()


def test_a_preempted_pod_restarts_all_slices_and_is_not_counted():
  rules = JOB['podFailurePolicy']['rules']
  assert [rule['action'] for rule in rules] == ['FailJob', 'FailJob']
  assert rules[0]['onExitCodes']['values'] == [75]
  (restart,) = SPEC['failurePolicy']['rules']
  assert restart['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert restart['onJobFailureReasons'] == ['PodFailurePolicy']
  assert (JOB['backoffLimit'], POD['restartPolicy']) == (0, 'Never')
  assert SPEC['failurePolicy']['maxRestarts'] > 0


def test_each_row_of_the_table_has_the_chips_of_its_topology():
  """The names of v2 to v5p count cores, two to a chip."""
  assert {'tpu7x', 'tpu-v6e-slice'} <= {row[1] for row in table_rows()}
  assert len(table_rows()) == 10
  for name, _, topology, per_pod, pods in table_rows():
    chips = math.prod(int(side) for side in topology.split('x'))
    assert chips == per_pod * pods, (name, topology)
    kind, _, number = name.partition('-')
    if number:
      a_chip = 1 if kind in ('v5litepod', 'v6e') else 2
      assert int(number) == chips * a_chip, name


def test_the_manifest_has_the_values_of_one_row():
  assert JOB['completionMode'] == 'Indexed'
  assert JOB['parallelism'] == JOB['completions']
  assert (
    POD['nodeSelector']['cloud.google.com/gke-tpu-accelerator'],
    POD['nodeSelector']['cloud.google.com/gke-tpu-topology'],
    CONTAINER['resources']['limits']['google.com/tpu'],
    JOB['parallelism'],
  ) in [row[1:] for row in table_rows()]


@pytest.fixture
def slurm(tmp_path):
  """Returns variables of a job whose srun and scontrol record their words."""
  (tmp_path / 'bin').mkdir()
  for name in ('srun', 'scontrol'):
    script = tmp_path / 'bin' / name
    script.write_text(
      f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/{name}.txt\n'
      f'exec sh -c "$FAKE_{name.upper()}"\n'
    )
    script.chmod(0o755)
  return {
    **os.environ,
    'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
    'SLURM_JOB_ID': '7',
    'SLURM_SUBMIT_DIR': str(ROOT),
    'PYTHON': sys.executable,
  }


def submit(variables, *words, **changes):
  return subprocess.run(
    ['bash', LAUNCH / 'slurm.sh', *words],
    env={**variables, **changes},
    capture_output=True,
    text=True,
  )


def test_slurm_runs_pretrain_and_returns_its_exit_code(slurm, tmp_path):
  words = ['--workdir=/shared/my run', '--config=configs/pretrain.py:mini']
  done = submit(slurm, *words, FAKE_SRUN='exit 3')
  assert done.returncode == 3, 'the exit code of srun'
  assert re.search(r'== job 7, start 0, commit \S+$', done.stdout, re.MULTILINE)
  lines = (tmp_path / 'srun.txt').read_text().splitlines()
  python = lines.index(sys.executable)
  assert lines[python:] == [
    *(sys.executable, '-m', 'gpt1_jax.pretrain', '--multihost=on'),
    *words,
  ]


def test_slurm_requests_one_task_for_each_gpu():
  text = (LAUNCH / 'slurm.sh').read_text()
  options = dict(re.findall(r'^#SBATCH --([\w-]+)(?:=(.*))?$', text, re.M))
  assert options['ntasks-per-node'] == options['gpus-per-node']
  assert 'requeue' in options
  # jax.distributed must see all GPUs of the node.
  assert 'gpus-per-task' not in options
  body = text[text.rindex('#SBATCH') :]
  assert 'set -euo' in body, 'sbatch reads no option after the first command'


def test_slurm_queues_a_stopped_run_again(slurm, tmp_path):
  done = subprocess.run(
    ['bash', LAUNCH / 'slurm.sh', '--workdir=w'],
    env={**slurm, 'FAKE_SRUN': 'exit 75', 'FAKE_SCONTROL': 'true'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0
  assert 'requeueing job 7' in done.stdout
  assert (tmp_path / 'scontrol.txt').read_text().split() == ['requeue', '7']
  # Without B:, Slurm signals the tasks before the time limit.
  text = (LAUNCH / 'slurm.sh').read_text()
  assert re.search(r'^#SBATCH --signal=TERM@\d+$', text, re.MULTILINE)


@pytest.mark.parametrize(
  ('words', 'change', 'message'),
  [
    (['--workdir=w'], {'SLURM_JOB_ID': ''}, 'submit this script: sbatch'),
    ([], {}, 'no options for gpt1_jax.pretrain'),
    (['--workdir=w'], {'PYTHON': 'no-such'}, f'{ROOT} has no no-such'),
  ],
)
def test_slurm_refuses_a_wrong_call_in_one_line(slurm, words, change, message):
  done = submit(slurm, *words, **change)
  assert done.returncode == 1
  assert done.stderr.startswith(f'error: {message}')
  assert len(done.stderr.splitlines()) == 1
