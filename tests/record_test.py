"""Tests launch/record.py: a run above the target is no record."""

import json

from tests.support import books, commands


def test_a_run_above_the_target_is_no_record(tmp_path):
  folder = books.write_books(tmp_path / 'books', range(4))
  corpus = tmp_path / 'out' / 'corpus'
  commands.succeed(
    'prepare',
    f'--input={folder}',
    f'--output={corpus}',
    '--merges=300',
    '--validation_fraction=0.25',
  )
  words = (
    f'--output={tmp_path / "out"}',
    '--config=configs/pretrain.py:tiny',
    '--config.train.num_steps=2',
    '--config.optim.warmup=1',
  )
  done = commands.run('launch/record.py', *words)
  row = json.loads((tmp_path / 'out' / 'record.json').read_text())
  scores = json.loads((tmp_path / 'out' / 'run' / 'scores.json').read_text())
  assert row['tokens'] == scores['tokens_seen'] == 2 * 16 * 64
  assert row['perplexity'] == round(scores['eval_perplexity'], 2) > 90
  assert min(row['processor_minutes'], row['minutes']) > 0
  assert row['peak_gflops'] > 1
  assert commands.error_of(done, code=1) == (
    f'error: perplexity {row["perplexity"]:.2f} exceeds 90.0: no record'
  )
  again = commands.fail('launch/record.py', *words)
  assert 'a record begins in an empty folder' in again
