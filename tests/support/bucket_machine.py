"""Runs commands that use a folder and a bucket; see `fake_bucket`."""

import json
import pathlib
import subprocess

from tests.support import commands, fake_bucket, forks, small_runs


class Machine:
  """Runs commands with a local folder and a bucket."""

  def __init__(self, bucket: fake_bucket.Bucket, folder: pathlib.Path):
    self.bucket, self.folder = bucket, folder
    self.forks = forks.Server(bucket.environment())
    self.stage = folder / 'stage'
    self.local = {
      name: folder / name for name in ('data', 'task', 'run', 'tuned')
    }

  def start(self, command: str, *options) -> subprocess.Popen:
    words = map(str, options)
    if command.endswith('.py'):  # a program of launch/
      env = self.bucket.environment()
      return commands.start(command, *words, **env)
    return self.forks.start(f'gpt1_jax.{command}', *words)

  def run(self, command: str, *options, code: int = 0) -> tuple[str, str]:
    with commands.ending(self.start(command, *options)) as job:
      out, err = job.communicate(timeout=200)
    assert job.returncode == code, err
    assert code == 0 or 'Traceback' not in err
    return out, err

  def put(self, folder: pathlib.Path, url: str) -> None:
    self.bucket.put_folder(url.removeprefix('gs://'), folder)

  def text(self, url: str) -> str:
    return self.bucket.objects[url.removeprefix('gs://')].decode()

  def rows(self, workdir: str) -> list[dict]:
    lines = self.text(f'{workdir}/metrics.jsonl').splitlines()
    return small_runs.untimed([json.loads(line) for line in lines])

  @property
  def staged(self) -> str:
    return f'--stage_to={self.stage}'
