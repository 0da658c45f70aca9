"""Progress prints lines if stderr is no terminal."""

import time

from gpt1_jax import progress


def test_a_line_every_ten_seconds_and_at_the_end(monkeypatch, capsys):
  times = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: times[-1])
  with progress.Progress('clean', 100, 'documents', 'MB/s') as bar:
    for now, done in ((5.0, 10), (20.0, 30), (25.0, 10)):
      times.append(now)
      bar.add(1000, done, 50.0)
  assert capsys.readouterr().err.splitlines() == [
    'clean: 2,000 documents, 5.0 MB/s, 30 s left',
    'clean: 3,000 documents, 6.0 MB/s',
  ]


def test_no_rate_includes_a_part_that_was_skipped(monkeypatch, capsys):
  times = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: times[-1])
  with progress.Progress('evaluate', 10, 'tokens', 'tokens/s') as bar:
    times.append(100.0)  # compiled
    bar.skip(50, 1)
    times.append(112.0)
    bar.add(50, 3, 60.0)
  assert capsys.readouterr().err.splitlines() == [
    'evaluate: 100 tokens, 5.0 tokens/s, 24 s left',
    'evaluate: 100 tokens, 5.0 tokens/s',
  ]


def test_other_processes_print_nothing(capsys):
  with progress.Progress('clean', 100, 'documents', 'MB/s', on=False) as bar:
    bar.add(1, 100, 1.0)
  assert capsys.readouterr().err == ''
