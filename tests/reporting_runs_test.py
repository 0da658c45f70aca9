"""Tests which runs are found in folders, and how they are described."""

import dataclasses
import json
import os

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.reporting import cells, figures, paper, runs as runs_lib, tables
from gpt1_jax.train import score_file
from tests.support import run_folders
from tests.support.run_folders import ACCURACY, accuracy, found


def test_find_walks_folders(tmp_path):
  top = run_folders.everything(tmp_path)
  runs = found(top)
  sweep = ('layers-0', 'layers-1', 'layers-2', 'scratch')
  assert [run.name for run in runs] == [
    *('a & <b>$x', 'all/cola', 'lstm', 'rte'),
    *(f'sweep/cola/{name}' for name in sweep),
  ]
  assert runs_lib.summarize(runs) == (
    '8 runs: 2 pretraining, 6 fine-tuning, 1 not finished, '
    '2 with zero-shot scores'
  )
  assert runs[1].describe() == 'cola, full, 3 seeds, finished'
  assert runs[3].describe() == (
    'rte, no pretraining, not finished: 1 of 3 seeds'
  )
  # A run that is given twice counts once, in its first place.
  again = found(top / 'rte', top / 'lstm', top)
  assert [run.path for run in again[:2]] == [top / 'rte', top / 'lstm']
  assert len(again) == len(runs)


def test_folders_are_sorted_by_number(tmp_path):
  for layer in (10, 9, 2):
    run_folders.finetuning(tmp_path / f'layers-{layer}', 'rte', ACCURACY)
  names = [run.name for run in found(tmp_path)]
  assert names == ['layers-2', 'layers-9', 'layers-10']


def test_seeds_without_a_common_header_are_one_run(tmp_path):
  """A sweep writes no config.json above the seeds."""
  for seed, value in ((0, 0.5), (1, 0.9), (2, 0.6)):
    folder = tmp_path / 'rte' / 'full' / f'seed-{seed}'
    run_folders.finetuning(folder, 'rte', accuracy(value), seed=seed)
  (folder / 'samples.txt').write_text('a sample')
  (run,) = found(tmp_path)
  assert run.seeds == [0, 1, 2]
  assert run.values('dev', 'accuracy') == [0.5, 0.9, 0.6]
  assert run.samples == 'a sample'
  (tmp_path / 'rte/full/seed-1/scores.json').unlink()
  (run,) = found(tmp_path)
  assert (run.scores, run.state) == (None, 'not finished: 2 of 3 seeds')


def test_seeds_with_other_settings_are_not_combined(tmp_path, capsys):
  top = run_folders.seeds(tmp_path / 'cola', 'cola', [ACCURACY] * 3, start='x')
  path = top / 'seed-1' / 'config.json'
  header = json.loads(path.read_text())
  header['commit'] = '9876543210'
  path.write_text(json.dumps(header))
  (run,) = found(tmp_path)
  assert run.commit == 'abcdef01+, 98765432'
  header['config']['optim']['warmup'] = 0.1
  header['config']['train']['num_epochs'] = 7.0
  path.write_text(json.dumps(header))
  runs = found(tmp_path)
  assert [run.name for run in runs] == ['seed-0', 'seed-1', 'seed-2']
  assert capsys.readouterr().err.endswith(
    'cola/seed-1: differs from seed-0 beside it in config.optim.warmup, '
    'config.train.num_epochs; move one of them to another folder\n'
  )


def test_find_rejects_folders_without_runs(tmp_path):
  with pytest.raises(UserError, match='no such folder'):
    found(tmp_path / 'absent')
  with pytest.raises(UserError, match='no run here or below'):
    found(tmp_path)


FOREIGN = (
  '{"model_type": "openai-gpt"}', '[1]', '{', '', '"x"', '3', '\ufffe',
  '{"command": "serve"}', '{"command": "pretrain", "config": []}',
  '[' * 100_000, f'{{"command": {"9" * 5000}}}',
)  # fmt: skip


@pytest.mark.parametrize('content', FOREIGN)
def test_foreign_folders_are_skipped_in_a_line(tmp_path, capsys, content):
  """As a folder that `convert` wrote, with another run below it."""
  run_folders.pretraining(tmp_path / 'run')
  for folder in (tmp_path / 'hf', tmp_path / 'all' / 'seed-1'):
    run_folders.pretraining(folder / 'below')
    (folder / 'config.json').write_text(content)
  names = [run.name for run in found(tmp_path)]
  assert names == ['all/seed-1/below', 'hf/below', 'run']
  lines = capsys.readouterr().err.splitlines()
  assert {line.partition('.json: ')[0] for line in lines} == {
    f'skipped {tmp_path}/{name}/config' for name in ('hf', 'all/seed-1')
  }
  os.remove(tmp_path / 'hf/below/config.json')
  with pytest.raises(UserError, match='no run here or below'):
    found(tmp_path / 'hf')


@pytest.mark.parametrize(
  'name',
  ['config.json', 'scores.json', 'metrics.jsonl', 'samples.txt'],
)
def test_pipes_are_skipped_in_a_line(tmp_path, capsys, name):
  run_folders.pretraining(tmp_path / 'a')
  run_folders.pretraining(tmp_path / 'b')
  (tmp_path / 'a' / name).unlink(missing_ok=True)
  os.mkfifo(tmp_path / 'a' / name)
  assert 'b' in [run.name for run in found(tmp_path)]
  assert capsys.readouterr().err.startswith(
    f'skipped {tmp_path}/a/{name}: not a file'
  )


@pytest.mark.parametrize('name', ['scores.json', 'zero_shot.jsonl'])
@pytest.mark.parametrize(
  'content', [*FOREIGN, '{"step": 1}', '{"metric": "a", "split": 1}', '[{}]']
)
def test_foreign_files_are_skipped_in_a_line(tmp_path, capsys, name, content):
  run_folders.pretraining(tmp_path / 'p')
  run_folders.finetuning(tmp_path / 't', 'rte', ACCURACY)
  for folder in ('p', 't'):
    (tmp_path / folder / name).write_text(content)
  runs = found(tmp_path)
  for run in runs:
    assert run.finished == (name != 'scores.json')
    assert run.zero_shot == []
  lines = capsys.readouterr().err.splitlines()
  wanted = 0 if (name, content) == ('zero_shot.jsonl', '') else 2
  assert len(lines) == wanted
  assert all(line.startswith(f'skipped {tmp_path}') for line in lines)


@pytest.mark.parametrize('sealed', [True, False])
def test_a_changed_score_is_noticed(tmp_path, capsys, sealed):
  run = run_folders.pretraining(tmp_path / 'run')
  path = run / 'scores.json'
  if sealed:
    score_file.write(run, score_file.read(run))
  content = path.read_text()
  (found,) = runs_lib.find([str(run)])
  assert found.finished
  assert capsys.readouterr().err == ''
  assert content.count('12.344') == 1
  path.write_text(content.replace('12.344', '12.345'))
  (found,) = runs_lib.find([str(run)])
  assert found.finished == (not sealed)
  said = f'skipped {path}: damaged (its checksum differs); '
  assert capsys.readouterr().err.startswith(said if sealed else '')


def test_torn_lines_cost_only_themselves(tmp_path):
  run_folders.pretraining(tmp_path / 'p', finished=False)
  lines = (
    '{"step": 1, "loss": 9.0}', '{"step": 2, "lo', '[]', '7', '\udcff',
    '{"loss": 8.0}', '{"step": "3", "loss": 7.0}', '{"step": 4, "loss": null}',
    '{"step": 5, "loss": NaN}', '{"step": 6, "loss": 1' + '0' * 400 + '}',
    '{"step": 7, "loss": 6.5}', '{"step": 8, "eval_perplexity": 20.125}',
  )  # fmt: skip
  content = '\n'.join(lines).encode('utf-8', 'surrogateescape')
  (tmp_path / 'p/metrics.jsonl').write_bytes(content)
  (run,) = found(tmp_path)
  assert run.points('loss') == [(1, 9.0), (7, 6.5)]
  assert run.state == 'not finished: update 8 of 1,500'
  (row,) = tables.overview([run]).rows
  assert (row['run'], row['score']) == ('p', '20.12 so far')
  assert row['state'] == 'not finished: update 8 of 1,500'
  (line,) = figures.losses([run])
  assert line.points == [(1, 9.0), (7, 6.5)]


@pytest.mark.parametrize(
  ('options', 'variant', 'layers'),
  [
    ({'start': 'run'}, paper.FULL, 4),
    ({'start': 'run', 'layers': 4}, paper.FULL, 4),
    ({'start': 'run', 'layers': 0}, paper.LAYERS, 0),
    ({'start': 'none'}, paper.NO_PRETRAINING, None),
    ({'start': 'run', 'lm_coef': 0.0}, paper.NO_AUXILIARY, 4),
    ({'start': 'run', 'kind': 'lstm'}, paper.LSTM, 1),
    ({'start': 'none', 'lm_coef': 0.0}, paper.OTHER, None),
    ({'start': 'run', 'layers': 2, 'lm_coef': 0.0}, paper.OTHER, 2),
    ({'start': 'none', 'kind': 'lstm'}, paper.OTHER, None),
  ],
)
def test_configuration_decides_the_row(tmp_path, options, variant, layers):
  folder = tmp_path / 'no-aux-scratch-lstm'
  run_folders.finetuning(folder, 'rte', ACCURACY, **options)
  (run,) = found(folder)
  assert (run.variant, run.layers) == (variant, layers)


def test_pretrained_run_is_given_or_on_disk_or_missing(tmp_path):
  run_folders.pretraining(tmp_path / 'p')
  (tmp_path / 'hf').mkdir()
  (tmp_path / 'hf/config.json').write_text('{"model_type": "openai-gpt"}')
  for name, start in (('f', 'p'), ('g', 'gone'), ('h', 'hf')):
    folder, start = tmp_path / name, tmp_path / start
    run_folders.finetuning(folder, 'rte', ACCURACY, start=start)
  run_folders.finetuning(tmp_path / 'n', 'rte', ACCURACY)
  f, g, h, n, p = found(*(tmp_path / name for name in 'fghnp'))
  assert cells.tokens_seen(f, [p]) == '98.8 M'
  assert cells.tokens_seen(f, []) == '98.8 M'
  assert cells.tokens_seen(g, []) == cells.tokens_seen(h, []) == 'unknown'
  assert cells.tokens_seen(n, []) == 'none'
  converted = dataclasses.replace(
    p, header=p.header | {'command': 'convert'}, pretraining=None
  )
  assert cells.tokens_seen(f, [converted]) == 'trained elsewhere'
