"""The package as pip sees it: metadata, extras and the files it ships."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

import gpt1_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def metadata(tmp_path_factory) -> dict[str, list[str]]:
  """PKG-INFO of the package, as setup.py makes it, field by field."""
  base = tmp_path_factory.mktemp('egg')
  subprocess.run(
    [sys.executable, 'setup.py', '-q', 'egg_info', f'--egg-base={base}'],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )
  fields: dict[str, list[str]] = {}
  text = (base / 'gpt1_jax.egg-info' / 'PKG-INFO').read_text(encoding='utf-8')
  for line in text.splitlines():
    name, _, value = line.partition(': ')
    fields.setdefault(name, []).append(value)
  fields['sources'] = (
    (base / 'gpt1_jax.egg-info' / 'SOURCES.txt').read_text().splitlines()
  )
  return fields


def test_name_version_and_python(metadata):
  assert metadata['Name'] == ['gpt1_jax']
  assert metadata['Version'] == [gpt1_jax.__version__]
  assert metadata['Requires-Python'] == ['>=3.11']


def test_extras(metadata):
  assert set(metadata['Provides-Extra']) == {
    'beam',
    'cuda',
    'dev',
    'openai',
    'peers',
    'test',
    'tpu',
  }


def test_every_requirement_of_the_package_has_a_lower_bound(metadata):
  for requirement in metadata['Requires-Dist']:
    assert '>=' in requirement or '==' in requirement, requirement


def test_every_package_folder_is_found_and_the_page_ships(metadata):
  folders = {
    path.parent.relative_to(ROOT).as_posix()
    for path in (ROOT / 'gpt1_jax').rglob('__init__.py')
  }
  found = {
    pathlib.PurePosixPath(source).parent.as_posix()
    for source in metadata['sources']
    if source.endswith('/__init__.py')
  }
  assert found == folders
  assert 'gpt1_jax/page/page.html' in metadata['sources']


def test_no_requirement_stands_in_pyproject():
  """One list of requirements, in setup.py."""
  pyproject = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'project' not in pyproject


@pytest.mark.parametrize(
  ('python', 'message'),
  [('false', 'older than Python 3.11'), ('no-such-python', 'missing or older')],
)
def test_make_names_a_python_that_cannot_serve(tmp_path, python, message):
  result = subprocess.run(
    ['make', 'demo', f'PYTHON={python}', f'VENV={tmp_path / "venv"}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode != 0
  assert message in result.stderr
  assert not (tmp_path / 'venv').exists()


def test_make_help_names_every_front_door():
  result = subprocess.run(
    ['make'], cwd=ROOT, capture_output=True, text=True, check=True
  )
  for target in ('make demo', 'make test', 'make lint'):
    assert target in result.stdout
