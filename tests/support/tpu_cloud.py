"""Writes what launch/tpu_vm.sh needs: a repository and a fake gcloud."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = 'repo/launch/tpu_vm.sh'
PLACE = ('--name=gpt1', '--zone=us-west4-a')
WORLD = {
  **{'queue': [], 'node': '', 'create': [], 'queue_states': [], 'delete': ''},
  **{'refuse_ssh': 0, 'refuse_start': 0, 'preempt_at_step': ''},
}
# Resumes from the bucket, as pretrain does; worker 0 records each step. Waits
# at the step at which the machines are to be preempted.
TRAIN_PY = """
import os, pathlib, time
from gpt1_jax.revision import COMMIT
assert COMMIT[:12] == os.path.basename(os.getcwd()), COMMIT
steps = pathlib.Path(os.environ['FAKE_CLOUD'], 'bucket/steps')
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
PYTHON3 = f"""#!/bin/sh
case "$*" in *'uv venv'*) mkdir -p .venv/bin
  ln -sf {sys.executable} .venv/bin/python ;; esac
"""
GCLOUD = f"""#!/bin/sh
exec {sys.executable} {ROOT}/tests/support/fake_gcloud.py "$@"
"""


@dataclasses.dataclass
class Cloud:
  """A git repository and the fake's folder, with ways to run and inspect."""

  path: pathlib.Path
  commit: str = ''

  def bash(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    paths = {
      'PATH': f'{self.path}/bin:{os.environ["PATH"]}',
      'TMPDIR': f'{self.path}/tmp',
      'FAKE_CLOUD': str(self.path),
      'PYTHONDONTWRITEBYTECODE': '1',
    }
    return subprocess.run(
      ['bash', *words],
      capture_output=True,
      text=True,
      timeout=100,
      cwd=self.path,
      env={**os.environ, **paths, **env},
    )

  def do(self, step: str, *words: str, **env: str) -> tuple[str, str]:
    """Runs a step that must succeed; returns its output and messages."""
    done = self.bash(SCRIPT, step, *PLACE, *words, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr

  def fail(
    self, *words: str, place: tuple[str, ...] = PLACE, **env: str
  ) -> str:
    """Runs a step that must end with exit code 1; returns its messages."""
    done = self.bash(SCRIPT, *words[:1], *place, *words[1:], **env)
    assert done.returncode == 1, done.stderr
    assert 'error: ' in done.stderr
    return done.stderr

  def raw_calls(self) -> list[list[str]]:
    path = self.path / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def calls(self) -> list[str]:
    """Returns kind and verb of each call, in order."""
    return [' '.join(words[2:4]) for words in self.raw_calls()]

  def world(self, **changes: Any) -> dict[str, Any]:
    path = self.path / 'world.json'
    world = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(world))
    return world

  def nothing_is_billed(self) -> bool:
    return not self.world()['queue'] and not self.world()['node']

  def job(self, worker: int, name: str) -> str:
    return (self.path / f'workers/{worker}/gpt1_jax/job/{name}').read_text()


@contextlib.contextmanager
def write(path: pathlib.Path) -> Iterator[Cloud]:
  """Yields a cloud without a slice; kills what its workers still run."""
  for name in ('bin', 'tmp', 'bucket', 'repo/gpt1_jax', 'repo/launch'):
    (path / name).mkdir(parents=True)
  repo = path / 'repo'
  for name in ('launch/tpu_vm.sh', '.gitattributes', 'gpt1_jax/__init__.py'):
    shutil.copy(ROOT / name, repo / name)
  (repo / 'gpt1_jax' / 'revision.py').write_text("COMMIT = '$Format:%H$'\n")
  (repo / 'gpt1_jax' / 'pretrain.py').touch()
  (repo / 'train.py').write_text(TRAIN_PY)
  for name, text in (('gcloud', GCLOUD), ('python3', PYTHON3)):
    (path / 'bin' / name).write_text(text)
    (path / 'bin' / name).chmod(0o755)
  git = ['git', '-C', str(repo), '-c', 'user.name=t', '-c', 'user.email=t@t']
  for words in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'all']):
    subprocess.run([*git, *words], check=True)
  words = [*git, 'rev-parse', '--short=12', 'HEAD']
  made = Cloud(path, subprocess.check_output(words, text=True).strip())
  (path / 'world.json').write_text(json.dumps(WORLD))
  yield made
  for group in path.glob('workers/*/gpt1_jax/job/group'):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(group.read_text()), signal.SIGKILL)
