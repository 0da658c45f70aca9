"""Import rules and size limits of the package."""

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


def test_files_and_functions_are_small():
  """At most 300 lines a file, 80 lines and 6 parameters a function."""
  found = []
  for path in FILES:
    text = path.read_text(encoding='utf-8')
    where = path.relative_to(ROOT)
    if (lines := len(text.splitlines())) > 300:
      found.append(f'{where}: {lines} lines')
    for node in ast.walk(ast.parse(text)):
      if not isinstance(node, FUNCTIONS):
        continue
      assert node.end_lineno
      if (lines := node.end_lineno - node.lineno + 1) > 80:
        found.append(f'{where}: {node.name} has {lines} lines')
      given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
      parameters = [a.arg for a in given if a.arg not in ('self', 'cls')]
      if len(parameters) > 6:
        found.append(f'{where}: {node.name} has {len(parameters)} parameters')
  assert found == []
