"""Tests which run is continued, and what another may begin from."""

import contextlib

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.train import belonging, run as run_lib
from tests.support.refusals import assert_refused


@pytest.mark.parametrize(
  ('name', 'is_refused'),
  [
    *((f'train.{x}', False) for x in ('num_steps', 'log_every', 'eval_every')),
    *((f'train.{x}', False) for x in ('checkpoint_every', 'microbatches')),
    ('mesh.fsdp', False),
    ('model.dtype', False),
    ('data.path', False),
    ('train.seed', True),
    ('data.batch_size', True),
    ('model.n_layer', True),
    ('model.n_head', True),
    ('model.units', True),
    ('init_from', True),
  ],
)
def test_settings_that_may_change_in_a_run(tmp_path, name, is_refused):
  section, _, key = name.rpartition('.')
  first, now = ({section: {key: x}} if section else {key: x} for x in (8, 9))
  run_lib.start(str(tmp_path), 'pretrain', first, {})
  if is_refused:
    with pytest.raises(UserError, match=f'a different {name};') as refusal:
      run_lib.changes(str(tmp_path), 'pretrain', now)
    can_fork = not name.startswith('model.')  # else no weights fit
    assert ('--fork_from=' in str(refusal.value)) == can_fork
  else:
    found = run_lib.changes(str(tmp_path), 'pretrain', now)
    assert found == {name: [8, 9]}


@pytest.mark.parametrize(
  ('changed', 'words'),
  [
    ({'tokenizer_fingerprint': 'b'}, 'holds a run with a different tokenizer'),
    ({'data_fingerprint': 'b'}, r'holds a run on other shards \(books\)'),
    ({}, None),
  ],
)
def test_tokenizer_shards_and_run_must_match(tmp_path, changed, words):
  header = run_lib.header(
    'pretrain',
    {'data': {'path': 'books'}},
    {'tokenizer_fingerprint': 'a', 'data_fingerprint': 'a'},
  )
  belonging.check(str(tmp_path), header)
  run_lib.record(str(tmp_path), header)
  refused = (
    pytest.raises(UserError, match=words) if words else contextlib.nullcontext()
  )
  with refused:
    belonging.check(str(tmp_path), {**header, **changed})


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    (['meta.json', 'train-00000.bin'], 'holds prepared data (meta.json)'),
    (['results.json', 'rte/'], 'holds the runs of several tasks (results.json'),
    (['summary.json'], 'holds the runs of a sweep'),
    (['model.safetensors'], 'holds a Hugging Face folder'),
    (['b.txt', 'a.txt'], 'holds other files or folders, such as a.txt'),
    (['mini/', 'rte/'], 'holds other files or folders, such as mini'),
    (['checkpoints/7/'], 'its config.json is missing; restore it'),
  ],
)
def test_a_run_begins_in_no_folder_of_another_kind(tmp_path, names, words):
  for name in names:
    path = tmp_path / name
    path.mkdir(parents=True) if name.endswith('/') else path.touch()
  with assert_refused(words, start=tmp_path):
    belonging.check(str(tmp_path), {})


def test_a_run_begins_beside_what_a_killed_start_and_a_log_leave(tmp_path):
  for name in ('lock', 'config.json.1a2b.tmp', 'log.txt', 'slurm-7.out'):
    (tmp_path / name).touch()
  (tmp_path / 'checkpoints').mkdir()
  belonging.check(str(tmp_path), {})
  (tmp_path / 'book.txt').touch()
  with assert_refused('holds other files or folders, such as book.txt'):
    belonging.check(str(tmp_path), {})
