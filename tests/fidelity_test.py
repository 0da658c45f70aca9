"""Checks that docs/fidelity.md names only what exists."""

import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def rows():
  """Returns (fact, source, places, tests) of each row, headings left out."""
  section = (ROOT / 'docs' / 'fidelity.md').read_text(encoding='utf-8')
  table = [line for line in section.splitlines() if line.startswith('|')]
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')] for line in table[2:]
  ]
  assert {len(row) for row in cells} == {4}
  return [row for row in cells if any(row[1:])]


@functools.cache
def tree(path):
  return ast.parse((ROOT / path).read_text(encoding='utf-8'))


def names(path):
  """Returns the functions, classes and constants that a file defines."""
  out = set()
  for node in tree(path).body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      out.add(node.name)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
      targets = getattr(node, 'targets', None) or [node.target]
      for part in (part for target in targets for part in ast.walk(target)):
        out |= {part.id} if isinstance(part, ast.Name) else set()
  return out


def quoted(cell):
  found = re.findall(r'`([^`]+)`', cell)
  assert ', '.join(f'`{word}`' for word in found) == cell
  return found


@pytest.mark.parametrize('row', rows(), ids=lambda row: row[0][:40])
def test_every_named_place_and_test_exists(row, monkeypatch):
  fact, source, places, tests = row
  assert fact
  assert re.search(r'\b(P §\d|C\b|D\b|blog)', source), source
  assert quoted(places)
  assert quoted(tests)
  for place in quoted(places):
    path, name = place.split(':')
    if not path.startswith(('configs/', 'tests/')):
      path = f'gpt1_jax/{path}'
    if path.startswith('configs/'):
      monkeypatch.syspath_prepend(ROOT)
      scope: dict = {}
      exec(compile(tree(path), path, 'exec'), scope)
      node = scope['get_config']()
      for key in name.split('.'):
        node = node[key]
    else:
      assert name in names(path), place
  for test in quoted(tests):
    module, name = test.split('::')
    assert module.endswith('_test'), test
    assert name.startswith('test_'), test
    assert name in names(f'tests/{module}.py'), test


def test_every_fact_is_there_once():
  facts = [row[0] for row in rows()]
  assert len(set(facts)) == len(facts) >= 43
