"""Import rules of the package; size limits of all Python files."""

import ast
import collections
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'gpt1_jax').rglob('*.py'))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_imports_run_down():
  """The contracts stand in pyproject.toml; `make lint` checks them too."""
  program = pathlib.Path(sys.executable).with_name('lint-imports')
  if not program.exists():
    pytest.skip("needs import-linter: pip install -e '.[dev]'")
  done = subprocess.run(
    [program, '--no-cache'], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_no_two_modules_have_the_same_name():
  names = collections.Counter(path.stem for path in FILES)
  del names['__init__']
  assert [name for name, count in names.items() if count > 1] == []


def sized():
  """Yields (file, its text, its functions) of the checkout."""
  for folder in ('configs', 'docs', 'gpt1_jax', 'launch', 'tests'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      text = path.read_text(encoding='utf-8')
      nodes = ast.walk(ast.parse(text))
      functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
      yield str(path.relative_to(ROOT)), text, functions


def test_files_and_functions_are_small():
  """At most 300 lines a file, 80 lines a function."""
  found = []
  for path, text, functions in sized():
    if (lines := len(text.splitlines())) > 300:
      found.append(f'{path}: {lines} lines')
    for node in functions:
      assert node.end_lineno
      if (lines := node.end_lineno - node.lineno + 1) > 80:
        found.append(f'{path}: {node.name} has {lines} lines')
  assert found == []


def test_functions_have_few_parameters():
  """At most 6; test functions and their builders may have more."""
  found = []
  for path, _, functions in sized():
    for node in functions:
      given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
      parameters = [a.arg for a in given if a.arg not in ('self', 'cls')]
      if len(parameters) > 6 and not path.startswith('tests/'):
        found.append(f'{path}: {node.name} has {len(parameters)} parameters')
  assert found == []
