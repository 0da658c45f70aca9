"""Damaged files of a run are named by every command that reads them."""

import json
import shutil

import pytest

import gpt1_jax
from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion
from gpt1_jax.tasks.zero_shot import evaluation
from gpt1_jax.train import (
  checkpoint,
  held_out,
  history,
  run as run_lib,
)
from tests.support import run_folders
from tests.support.refusals import assert_refused


def test_a_start_is_recorded_below_a_damaged_row(tmp_path):
  file = tmp_path / history.HISTORY
  file.write_bytes(b'{"step": 1}\n{"st\xff')
  history._append(str(tmp_path), {'step': 3})
  assert file.read_bytes() == b'{"step": 1}\n{"st\xff\n{"step": 3}\n'


@pytest.mark.parametrize('content', ['[]', '{}', '{"command": 1}', '"x"'])
def test_a_damaged_config_is_named(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(UserError, match=r'config\.json: damaged'):
    run_lib.load(str(tmp_path))


def test_the_config_of_a_hugging_face_folder_is_named(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "openai-gpt"}')
  with assert_refused('belongs to a Hugging Face folder, not a run'):
    run_lib.load(str(tmp_path))


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('{"command": "pretrain", "conf', 'damaged, not valid JSON'),
    (
      '{"command": "", "config": {}, "tokenizer_fingerprint": "b"}',
      'its tokenizer differs from the checkpoint',
    ),
  ],
)
def test_a_model_beside_a_wrong_config_is_refused(
  pretrained, tmp_path, content, words
):
  run = shutil.copytree(pretrained, tmp_path / 'run')
  gpt1_jax.load(run)
  (run / 'config.json').write_text(content)
  with pytest.raises(UserError, match=rf'config\.json: {words}'):
    gpt1_jax.load(run)


def converted_by(run, out):
  """Yields functions that read the config.json and scores.json of a run."""
  yield lambda: conversion.to_huggingface(run, out)
  yield lambda: conversion.to_slim_run(run, out)


def with_files(pretrained, run):
  """Copies a checkpoint to a folder with config.json and scores.json."""
  shutil.copytree(pretrained, run)
  run_folders.pretraining(run)
  meta = checkpoint.read(str(run)).meta
  header = json.loads((run / 'config.json').read_text())
  header['tokenizer_fingerprint'] = meta.tokenizer_fingerprint
  (run / 'config.json').write_text(json.dumps(header))
  return header


@pytest.mark.parametrize(
  'changed',
  [
    {'commit': 3},
    {'model': []},
    {'parameters': '5'},
    {'num_steps': None},
    {'forked_from': {'run': 3, 'step': 1}},
    {'config': {}},
    {'config': {'data': 3}},
  ],
)
def test_a_config_of_another_shape_is_refused(pretrained, tmp_path, changed):
  run, out = tmp_path / 'run', tmp_path / 'out'
  file = run / 'config.json'
  header = with_files(pretrained, run)
  file.write_text(json.dumps({**header, **changed}))
  for read in (
    *converted_by(run, out),
    lambda: held_out.shards_of(str(run)),
    lambda: evaluation.tokens_seen(str(run), 1),
  ):
    with assert_refused(f'{file}: not written by gpt1_jax, or damaged'):
      read()
  assert not out.exists()


@pytest.mark.parametrize('content', ['[]', '{}', '{"step": 1}', '3'])
def test_scores_of_another_shape_are_refused(pretrained, tmp_path, content):
  run, out = tmp_path / 'run', tmp_path / 'out'
  with_files(pretrained, run)
  (run / 'scores.json').write_text(content)
  for read in converted_by(run, out):
    with assert_refused('scores.json: not written by gpt1_jax, or damaged'):
      read()
  assert not out.exists()
