"""Reads documents from data sets of TFDS and Hugging Face."""

import importlib
import pathlib
import subprocess
import sys

import pytest

from gpt1_jax.corpus import inputs
from tests.support.document_files import read, refused, write_jsonl

_BUILDER = """
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds


class Gpt1Shelf(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  pkg_dir_path = pathlib.Path(sys.argv[0]).parent

  def _info(self):
    features = {'body': tfds.features.Text(), 'n': np.int64}
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield i, {'body': f'book {i}: caf\\xe9', 'n': i}


Gpt1Shelf(
  data_dir=sys.argv[1], file_format='array_record'
).download_and_prepare()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # raised by TFDS and its imports
def test_tfds(tmp_path, monkeypatch):
  """Reads a data set that our own builder made, without TensorFlow."""
  (tmp_path / 'package').mkdir()
  script = tmp_path / 'package' / 'build.py'
  script.write_text(_BUILDER)
  data = tmp_path / 'data'
  subprocess.run([sys.executable, script, data], check=True, timeout=120)
  # TFDS reads the variable TFDS_DATA_DIR once, when it is imported.
  constants = importlib.import_module('tensorflow_datasets.core.constants')
  monkeypatch.setattr(constants, 'DATA_DIR', str(data))
  found = read('tfds:gpt1_shelf:train:body')
  assert {text for _, text in found} == {f'book {i}: café' for i in range(6)}
  assert found[0][0] == 'tfds:gpt1_shelf:train:body#0'
  assert read('tfds:gpt1_shelf:train', field='body')[3][1] == found[3][1]
  part = read('tfds:gpt1_shelf:train[1:3]:body')
  assert [text for _, text in part] == [text for _, text in found[1:3]]
  size = inputs.measure(['tfds:gpt1_shelf:train:body'])
  assert (size['files'], size['bytes']) == (0, 0)
  for spec, words in (
    ('tfds:gpt1_shelf:train', "no text in field 'text' (it has"),
    ('tfds:gpt1_shelf:train:n', "field 'n' holds int"),
    ('tfds:gpt1_shelf:test', 'cannot be read'),
    ('tfds:gpt1_no_such_thing:train', 'cannot be read'),
  ):
    message = refused(spec)
    assert message.startswith(spec)
    assert words in message


@pytest.fixture
def hf_folder(tmp_path, monkeypatch) -> pathlib.Path:
  """A data set of two configurations, as the hub would serve it."""
  datasets = pytest.importorskip('datasets', reason='needs the hf extra')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
  datasets.disable_progress_bars()
  folder = tmp_path / 'shelf'
  (folder / 'a').mkdir(parents=True)
  write_jsonl(
    folder / 'train.jsonl', [{'text': f'é {i}', 'n': i} for i in range(5)]
  )
  write_jsonl(folder / 'a' / 'x.jsonl', [{'text': 'other'}])
  (folder / 'README.md').write_text(
    '---\nconfigs:\n- {config_name: default, data_files: train.jsonl}\n'
    '- {config_name: small, data_files: a/x.jsonl}\n---\n'
  )
  return folder


@pytest.mark.filterwarnings('ignore')  # raised by datasets and its imports
def test_hugging_face_data_sets(hf_folder):
  spec = f'hf:{hf_folder}:train'
  assert read(spec) == [(f'{spec}#{i}', f'é {i}') for i in range(5)]
  assert read(f'hf:{hf_folder}:train[1:3]:text')[1][1] == 'é 2'
  assert read(f'hf:{hf_folder}/small:train')[0][1] == 'other'
  for spec, words in (
    (f'hf:{hf_folder}:train:n', "field 'n' holds int"),
    (f'hf:{hf_folder}:train:none', "no text in field 'none' (it has text, n)"),
    (f'hf:{hf_folder}:test', 'cannot be read (Unknown split'),
    (f'hf:{hf_folder}/none:train', 'cannot be read (BuilderConfig'),
  ):
    assert words in refused(spec)


def test_a_missing_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  assert "pip install 'gpt1_jax[hf]'" in refused('hf:a/b:train')
