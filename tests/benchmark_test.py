"""Every suite of launch/benchmark.py runs, at a tiny size and untimed.

Candidates alternate; one that fails or is missing is reported in one sentence.
"""

import json
import os

import pytest
from benchmarks import suites

from tests.support import commands

NEEDED = "needs the extra torch: pip install -e '.[torch]'"


def rows_of(*flags):
  """Returns the rows of a suite."""
  settings = ('--quick', '--steps=1', '--repeats=1', '--json')
  done = commands.run('launch/benchmark.py', *settings, *flags)
  assert done.returncode == 0, done.stderr
  out = json.loads(done.stdout.splitlines()[-1])
  assert out['machine']['threads'] > 0
  assert all(row['ours'] > 0 for row in out['rows'])
  return out['rows']


@pytest.mark.peers
@pytest.mark.slow
def test_train():
  pytest.importorskip('torch', reason=NEEDED)
  rows = rows_of('--suite=train')
  assert [row['name'] for row in rows] == [
    f'{name}, {dtype}'
    for dtype in ('float32', 'bfloat16')
    for _ in range(2)
    for name in ('step', 'peak memory')
  ]
  assert all(row['ratio'] > 0 for row in rows)
  assert all(row['ours'] > 50e6 for row in rows if row['unit'] == 'B')


@pytest.mark.peers
@pytest.mark.slow
def test_generate():
  pytest.importorskip('torch', reason=NEEDED)
  rows = rows_of('--suite=generate')
  assert len(rows) == 4
  assert all(row['ratio'] > 0 for row in rows)


@pytest.mark.peers
@pytest.mark.slow
def test_finetune(archives, tmp_path):
  pytest.importorskip('torch', reason=NEEDED)
  (tmp_path / 'tasks').mkdir()
  (tmp_path / 'tasks' / 'glue').symlink_to(archives)
  rows = rows_of('--suite=finetune', f'--data={tmp_path}')
  names = [row['name'].split(',')[0] for row in rows]
  assert names == ['fine-tuning sst2', 'fine-tuning rte']
  assert all(row['ratio'] > 0 for row in rows)


@pytest.mark.slow
def test_prepare():
  (row,) = rows_of('--suite=prepare')
  assert row['reference'] == 'SentencePiece alone'
  assert row['ratio'] > 0


@pytest.mark.parametrize(
  ('flag', 'message'),
  [
    ('--json', 'error: --suite is missing'),
    ('--suite=finetune', 'error: --suite=finetune needs --data'),
  ],
)
def test_a_missing_flag_is_one_line(flag, message):
  done = commands.run('launch/benchmark.py', flag)
  assert commands.error_of(done).startswith(message)
  assert len(done.stderr.splitlines()) == 1


ALTERNATE = """
import json, os, pathlib, sys, types
from benchmarks import process
from benchmarks.case import Case

said, case = [], Case('tiny', 8)
results = process.alternate({
  'a': ('toy.counts', case),
  'b': ('toy.fails', case),
  'c': ('toy.counts', case),
  'd': ('toy.needs_more', case),
}, 2, said.append)
print(json.dumps([said, results.measured, results.versions, results.failed]))
"""
TOY = """
def counts(case):
  return lambda: (float(case.vocab_size), 2.0), {'toy': '1'}

def fails(case):
  def repeat():
    raise ValueError('broken')
  return repeat, {}

def needs_more(case):
  import no_such_library
"""


def test_candidates_alternate_and_failures_are_reported(tmp_path):
  (tmp_path / 'toy.py').write_text(TOY)
  # The package `benchmarks` gets a module more, in this process and the others.
  (tmp_path / 'sitecustomize.py').write_text(
    'import benchmarks, pathlib\n'
    'benchmarks.__path__.append(str(pathlib.Path(__file__).parent))\n'
  )
  paths = map(str, (tmp_path, commands.ROOT, commands.ROOT / 'launch'))
  out = commands.succeed('-c', ALTERNATE, PYTHONPATH=os.pathsep.join(paths))
  said, measured, versions, failed = json.loads(out)
  assert said == [
    *('a: starting', 'b: starting', 'c: starting', 'd: starting'),
    "d: skipped, no_such_library: pip install 'gpt1_jax[torch]'",
    'a: repetition 1 of 2',
    'b: failed, b ended with 1: ValueError: broken',
    'c: repetition 1 of 2',
    'a: repetition 2 of 2',
    'c: repetition 2 of 2',
  ]
  assert list(measured) == ['a', 'c']
  for results in measured.values():
    assert [(r['rate'], r['seconds']) for r in results] == [(4, 2), (4, 2)]
  assert versions == {'toy': '1'}
  assert failed == ['b']


def test_a_row_compares_medians():
  ours = [{'rate': 1}, {'rate': 9}, {'rate': 2}]
  measured = {'ours': ours, 'peer': [{'rate': 4}]}
  peer, none = (
    suites.compare('x', 's', measured, name) for name in ('peer', 'none')
  )
  assert (peer.ours, peer.theirs, peer.ratio) == (2, 4, 0.5)
  assert (none.ours, none.theirs, none.ratio) == (2, None, None)
