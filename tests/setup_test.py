"""Tests the package's metadata, its lock file, and the make targets."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import gpt1_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_metadata_of_the_package():
  """Checks the metadata that pip made of setup.py."""
  try:
    metadata = importlib.metadata.metadata('gpt1_jax')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip('gpt1_jax is not installed: pip install -e .')
  assert metadata['Name'].replace('-', '_') == 'gpt1_jax'
  assert metadata['Version'] == gpt1_jax.__version__
  assert metadata['Requires-Python'] == '>=3.11'
  extras = (
    'beam browser cuda dev docs gcs hf notebook openai peers serve test torch '
    'tpu wandb'
  )
  assert set(metadata.get_all('Provides-Extra')) == set(extras.split())
  for requirement in importlib.metadata.requires('gpt1_jax'):
    assert '>=' in requirement or '==' in requirement, requirement


def test_requirements_are_declared_in_setup_only():
  pyproject = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'project' not in pyproject


def test_the_lock_file_pins_every_requirement_of_the_tests():
  lines = (ROOT / 'requirements.lock').read_text().splitlines()
  assert all(re.fullmatch(r'[\w.-]+==[\w.]+', line) for line in lines)
  pinned = {re.sub('[-_.]+', '-', x.split('==')[0]).lower() for x in lines}
  assert {'jax', 'flax', 'orbax-checkpoint', 'pytest', 'mypy'} <= pinned


@pytest.mark.parametrize(
  ('python', 'message'),
  [('false', 'older than Python 3.11'), ('no-such-python', 'missing or older')],
)
def test_make_refuses_an_interpreter_that_is_too_old(tmp_path, python, message):
  words = ['make', 'demo', f'PYTHON={python}', f'VENV={tmp_path}/venv']
  result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode != 0
  assert message in result.stderr
  assert not (tmp_path / 'venv').exists()


def test_the_package_lists_its_commands():
  out = subprocess.check_output(
    [sys.executable, '-m', 'gpt1_jax'], cwd=ROOT, text=True
  )
  text = (ROOT / 'setup.py').read_text()
  names = re.search(r'^COMMANDS = \((.*?)\)', text, re.DOTALL | re.MULTILINE)[1]
  shown = re.findall(r'python -m gpt1_jax\.(\w+) ', out)
  assert sorted(shown) == sorted(re.findall(r"'(\w+)'", names))
  assert 'pretrain' in shown


def test_make_help_names_every_target():
  text = (ROOT / 'Makefile').read_text()
  targets = re.search(r'^\.PHONY: (.*)$', text, re.MULTILINE)[1].split()
  out = subprocess.check_output(['make'], cwd=ROOT, text=True)
  assert all(f'make {target} ' in out for target in targets if target != 'help')
