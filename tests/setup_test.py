"""The package as pip sees it: metadata, extras and the files it ships."""

import importlib.metadata
import pathlib
import subprocess
import tomllib

import pytest

import gpt1_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def metadata() -> importlib.metadata.PackageMetadata:
  """Of the installed package, as setup.py made it."""
  try:
    return importlib.metadata.metadata('gpt1_jax')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip('gpt1_jax is not installed: pip install -e .')


def test_name_version_and_python(metadata):
  assert metadata['Name'].replace('-', '_') == 'gpt1_jax'
  assert metadata['Version'] == gpt1_jax.__version__
  assert metadata['Requires-Python'] == '>=3.11'


def test_extras(metadata):
  assert set(metadata.get_all('Provides-Extra')) == {
    'beam',
    'browser',
    'cuda',
    'dev',
    'gcs',
    'openai',
    'peers',
    'test',
    'tpu',
  }


def test_every_requirement_of_the_package_has_a_lower_bound(metadata):
  for requirement in importlib.metadata.requires('gpt1_jax'):
    assert '>=' in requirement or '==' in requirement, requirement


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
