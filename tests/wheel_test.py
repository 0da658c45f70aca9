"""The wheel: built, installed and used in an empty folder."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import gpt1_jax
from tests.support import commands

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
  """Returns a copy of the tree in a folder named gpt1_jax, like a clone."""
  tree = tmp_path_factory.mktemp('top') / 'gpt1_jax'
  tree.mkdir()
  for name in ('gpt1_jax', 'configs'):
    shutil.copytree(
      commands.ROOT / name,
      tree / name,
      ignore=shutil.ignore_patterns('__pycache__'),
    )
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(commands.ROOT / name, tree)
  return tree


@pytest.fixture(scope='module')
def wheel(clone, tmp_path_factory):
  """Builds the wheel with the setuptools at hand."""
  top = tmp_path_factory.mktemp('wheel')
  subprocess.run(
    [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '-o', top],
    cwd=clone,
    check=True,
    capture_output=True,
  )
  (found,) = top.glob('*.whl')
  return found


@pytest.fixture(scope='module')
def installed(wheel):
  """Installs the wheel, without its requirements; returns its folder."""
  target = wheel.parent / 'site'
  subprocess.run(
    [
      sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
      '--no-index', '--target', target, wheel,
    ],
    check=True,
    capture_output=True,
  )  # fmt: skip
  return target


def run(site: pathlib.Path, folder: pathlib.Path, *command: object) -> str:
  done = subprocess.run(
    [sys.executable, *map(str, command)],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(site)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_wheel_holds_everything_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    (metadata,) = (x for x in names if x.endswith('/METADATA'))
    text = archive.read(metadata).decode()
  tree = commands.ROOT
  wanted = {str(p.relative_to(tree)) for p in tree.glob('gpt1_jax/**/*.py')}
  wanted |= {
    f'gpt1_jax/presets/{p.relative_to(tree)}' for p in tree.glob('configs/*.py')
  }
  wanted |= {'gpt1_jax/py.typed', 'gpt1_jax/serving/page.html'}
  assert wanted <= names
  tops = {name.split('/')[0] for name in names}
  assert {top for top in tops if '.dist-info' not in top} == {'gpt1_jax'}
  for line in (
    'Description-Content-Type: text/markdown',
    'Classifier: Typing :: Typed',
    'Project-URL: Paper',
    '# gpt1_jax',
  ):
    assert line in text


def test_commands_find_the_presets_from_an_empty_folder(installed, tmp_path):
  out = run(
    installed, tmp_path, '-m', 'gpt1_jax.pretrain',
    '--config=configs/pretrain.py:tiny', '--print_config',
  )  # fmt: skip
  assert '--config.model.n_layer=2' in out
  # A preset that imports another one, through a console script.
  out = run(
    installed, tmp_path, installed / 'bin/gpt1-finetune',
    '--config=configs/own_task.py', '--print_config',
  )  # fmt: skip
  assert '--config.task.kind=' in out
  assert list(tmp_path.iterdir()) == []


def test_a_console_script_has_its_help(installed, tmp_path):
  out = run(installed, tmp_path, installed / 'bin/gpt1-prepare', '--help')
  assert '--input' in out
  assert len(list((installed / 'bin').iterdir())) == 9


EDITABLE = """
import sys
from setuptools import build_meta
print(build_meta.build_editable(sys.argv[1]))
"""
BESIDE = """
import site, sys
site.addsitedir(sys.argv[1])
import gpt1_jax
print(gpt1_jax.__version__)
"""


def test_a_script_beside_an_editable_clone_imports_the_package(clone, tmp_path):
  out = run(clone, clone, '-c', EDITABLE, tmp_path)
  with zipfile.ZipFile(tmp_path / out.split()[-1]) as archive:
    archive.extractall(tmp_path / 'site')
  script = clone.parent / 'script.py'
  script.write_text(BESIDE)
  # -S hides the package that this environment has.
  out = run(tmp_path, clone.parent, '-S', script, tmp_path / 'site')
  assert out.strip() == gpt1_jax.__version__
