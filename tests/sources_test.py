"""Every task from its archives and from TFDS: the same rows, found by itself.

TFDS's own builders write real ArrayRecord files here, of the rows of the
archives; only their downloads are replaced.
"""

import csv
import dataclasses
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import sklearn.model_selection

from gpt1_jax import config, errors
from gpt1_jax.tasks import examples, table
from gpt1_jax.tasks.readers import rows, sources
from tests.support import tfds_builds

# Task: rows of train, dev and test in all the archives of one folder.
COUNTS = {
  'snli': (3, 2, 1),
  'mnli': (3, 2, 1),
  'qnli': (3, 2, 1),
  'rte': (3, 2, 1),
  'scitail': (6, 6, 6),
  'race': (22, 17, 22),
  'race_middle': (10, 11, 14),
  'race_high': (12, 6, 8),
  'mrpc': (10, 8, 15),
  'qqp': (3, 2, 1),
  'stsb': (3, 2, 1),
  'sst2': (3, 2, 1),
  'cola': (3, 2, 1),
  'wnli': (3, 2, 1),
}


@pytest.fixture(scope='module')
def archives(shared_data):
  return shared_data / 'tasks' / 'archives'


@pytest.mark.parametrize('name', COUNTS)
def test_found_in_a_folder_of_archives(archives, name):
  task = table.TASKS[name]
  for split, count in zip(('train', 'dev', 'test'), COUNTS[name], strict=True):
    assert sources.has(task, archives, split)
    assert len(examples.read(task, archives, split)) == count


def test_mnli_has_two_dev_sets_two_test_sets_and_ax(archives):
  task = table.TASKS['mnli']
  for split in ('dev_mismatched', 'test_mismatched', 'test_ax'):
    assert sources.has(task, archives, split)
  found = examples.read(task, archives / 'glue-ax.zip', 'test_ax')
  assert [e.label for e in found] == [None] * 3
  assert found[0].texts[0] == 'The cat sat on the mat.'
  assert not sources.has(task, archives / 'multi_nli-0.0.0.zip', 'test')


def test_race_is_flattened_to_questions(archives, tmp_path):
  whole = examples.read(table.TASKS['race'], archives / 'race-all.zip', 'dev')
  parts = []
  for level in ('middle', 'high'):
    path = archives / f'race-{level}.zip'
    half = examples.read(table.TASKS[f'race_{level}'], path, 'dev')
    with_all = examples.read(
      table.TASKS['race'], archives / 'race-all.zip', f'dev_{level}'
    )
    assert half == with_all
    parts += half
  assert [e.texts for e in whole] == [e.texts for e in parts]
  first = whole[0]  # dev/middle/13.txt
  assert first.texts[0].startswith('What is color?')
  assert first.texts[1] == 'When something reflects light, we can   _  .'
  assert first.choices[first.label] == 'see its color'
  labels = [example.label for example in whole[:5]]
  assert labels == [0, 2, 0, 3, 1]
  zipfile.ZipFile(archives / 'race-all.zip').extractall(tmp_path)
  with tarfile.open(tmp_path / 'RACE.tar.gz', 'w:gz') as tar:
    tar.add(tmp_path / 'dummy_data' / 'RACE', 'RACE')
  for path in ('dummy_data', 'dummy_data/RACE', 'RACE.tar.gz'):
    assert examples.read(table.TASKS['race'], tmp_path / path, 'dev') == whole


def test_half_of_race_is_not_the_whole(archives):
  path = archives / 'race-high.zip'
  with pytest.raises(errors.UserError) as caught:
    examples.read(table.TASKS['race'], path, 'train')
  assert str(caught.value) == (
    f'no train file of task race: looked in {path} for train/middle/*.txt'
  )


@pytest.fixture
def stories(tmp_path):
  """Story Cloze's two files under the names they are handed out with."""
  folder = tmp_path / 'stories' / 'StoryCloze'
  folder.mkdir(parents=True)
  for part, count in (('val', 1871), ('test', 20)):
    name = f'cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv'
    with (folder / name).open('w', newline='') as file:
      table = csv.writer(file)
      table.writerow(['InputStoryid', *rows.STORY, 'AnswerRightEnding'])
      for i in range(count):
        texts = (f'{part} "{i}", sentence {n}.' for n in range(6))
        table.writerow([f'id-{i}', *texts, 1 + i % 2])
  return folder.parent


def test_story_cloze_is_split_as_the_released_code_does(stories):
  task = table.TASKS['story_cloze']
  train = examples.read(task, stories, 'train')
  dev = examples.read(task, stories, 'dev')
  assert (len(train), len(dev)) == (1497, 374)
  expected = sklearn.model_selection.train_test_split(  # C: datasets.py
    np.arange(1871), test_size=374, random_state=3535999445
  )
  for part, chosen in zip((train, dev), expected, strict=True):
    assert [example.row for example in part] == sorted(chosen)
  test = examples.read(task, stories / 'StoryCloze', 'test')
  assert test[1] == examples.Example(
    (' '.join(f'test "1", sentence {n}.' for n in range(4)),),
    ('test "1", sentence 4.', 'test "1", sentence 5.'),
    1,
    1,
  )
  assert [example.label for example in test[:4]] == [0, 1, 0, 1]


def test_story_cloze_with_hidden_test_labels(stories):
  (path,) = (stories / 'StoryCloze').glob('*test_ALL_test.csv')
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(line.rpartition(',')[0] for line in lines))
  found = examples.read(table.TASKS['story_cloze'], stories, 'test')
  assert [example.label for example in found] == [None] * 20


@pytest.mark.parametrize('name', table.TASKS)
def test_not_found_says_what_was_looked_for(tmp_path, name):
  task = table.TASKS[name]
  with pytest.raises(errors.UserError) as caught:
    examples.read(task, tmp_path, 'train')
  for word in (f'no train file of task {name}', task.files['train'][0]):
    assert word in str(caught.value)
  assert f'*/{task.folders[0]}/' in str(caught.value)
  assert '\n' not in str(caught.value)


# Task: the archive its TFDS builder unpacks.
BUILT = {
  'cola': 'glue-cola',
  'sst2': 'glue-sst2',
  'mrpc': 'glue-mrpc',
  'qqp': 'glue-qqp',
  'stsb': 'glue-stsb',
  'mnli': 'glue-mnli',
  'qnli': 'glue-qnli',
  'rte': 'glue-rte',
  'wnli': 'glue-wnli',
  'snli': 'snli-plain_text',
  'scitail': 'scitail-tsv_format',
  'race': 'race-all',
}


@tfds_builds.ALLOW_WARNINGS
@pytest.mark.parametrize('name', BUILT)
def test_tfds_gives_the_rows_of_the_archive(
  archives, name, tmp_path, monkeypatch
):
  task = table.TASKS[name]
  for archive in (BUILT[name], 'glue-ax'):
    zipfile.ZipFile(archives / f'{archive}.zip').extractall(tmp_path)
  folder = tmp_path / 'dummy_data'
  if (folder / 'SST-B').exists():  # misspelled in this copy
    (folder / 'SST-B').rename(folder / 'STS-B')
  for litter in folder.rglob('.DS_Store'):  # not in RACE's own archive
    litter.unlink()
  addresses = {a for split in task.tfds.values() for a in split}
  for address in sorted({a.partition(':')[0] for a in addresses}):
    tfds_builds.build(address, folder, tmp_path / 'tfds', monkeypatch)
  assert list((tmp_path / 'tfds').rglob('*.array_record*'))
  for split in task.files:
    path = f'tfds:{tmp_path}/tfds'
    assert sources.has(task, path, split)
    found = examples.read(task, path, split)
    expected = examples.read(task, folder, split)
    if name == 'mrpc' and split == 'test':  # TFDS hides its labels
      assert {e.label for e in found} == {None}
      found = [e.texts for e in found]
      expected = [e.texts for e in expected]
    if name in ('snli', 'scitail'):  # no numbers: TFDS's own order
      found = sorted((e.texts, e.label) for e in found)
      expected = sorted((e.texts, e.label) for e in expected)
    if name == 'mrpc' and split != 'test':  # held-out rows keep their number
      found, expected = without_rows(found), without_rows(expected)
    if name == 'stsb':  # float32 there
      expected = [
        dataclasses.replace(e, label=single(e.label)) for e in expected
      ]
    assert found == expected


def single(label):
  return None if label is None else float(np.float32(label))


def without_rows(found):
  return [(e.texts, e.label) for e in found]


@tfds_builds.ALLOW_WARNINGS
def test_story_cloze_from_tfds(stories, tmp_path, monkeypatch):
  folder = stories / 'StoryCloze'
  for part in ('val', 'test'):
    (path,) = folder.glob(f'*{part}__*.csv')
    path.rename(folder / f'cloze_test_{part}__spring2016.csv')
  tfds_builds.build('story_cloze/2016', folder, tmp_path / 'tfds', monkeypatch)
  task, path = table.TASKS['story_cloze'], f'tfds:{tmp_path}/tfds'
  counts = [len(examples.read(task, path, s)) for s in ('train', 'dev', 'test')]
  assert counts == [1497, 374, 20]
  both = (examples.read(task, p, 'test') for p in (path, folder))
  found, expected = ({(e.texts, e.choices, e.label) for e in x} for x in both)
  assert found == expected


@tfds_builds.ALLOW_WARNINGS
def test_a_task_of_ones_own_from_tfds(archives, tmp_path, monkeypatch):
  zipfile.ZipFile(archives / 'glue-sst2.zip').extractall(tmp_path)
  tfds_builds.build(
    'glue/sst2', tmp_path / 'dummy_data', tmp_path / 'tfds', monkeypatch
  )
  fields = {'kind': 'classification', 'labels': ('negative', 'positive')}
  fields |= {'texts': ('sentence',)}
  fields['tfds'] = {'train': 'glue/sst2:train[:2]', 'dev': 'glue/sst2:train'}
  task, path = table.resolve(config.OwnTask(**fields)), f'tfds:{tmp_path}/tfds'
  assert len(examples.read(task, path, 'train')) == 2
  dev = examples.read(task, path, 'dev')
  assert [example.label for example in dev] == [0, 0, 1]
  with pytest.raises(errors.UserError, match='TFDS has no test split of it'):
    examples.read(task, path, 'test')


@tfds_builds.ALLOW_WARNINGS
def test_tfds_that_cannot_be_read_is_one_line(tmp_path):
  fields = {'kind': 'similarity', 'tfds': {'train': 'no_such_set:train'}}
  with pytest.raises(errors.UserError) as caught:
    examples.read(
      table.resolve(config.OwnTask(**fields)), f'tfds:{tmp_path}', 'train'
    )
  assert str(caught.value).startswith('tfds:no_such_set:train: cannot be read')
  assert '\n' not in str(caught.value)
  assert not sources.has(
    table.resolve(config.OwnTask(**fields)), f'tfds:{tmp_path}', 'train'
  )
  fields['tfds'] = {'train': 'rte'}
  with pytest.raises(
    errors.UserError, match=r'tfds:rte: write NAME\[/CONFIG\]'
  ):
    examples.read(table.resolve(config.OwnTask(**fields)), 'tfds', 'train')


def test_tfds_brings_no_tensorflow_along():
  code = (
    'import sys; from gpt1_jax.tasks.readers import tfds_rows\n'
    'try: tfds_rows.read("no_such_set:train", "/nowhere")\n'
    'except Exception as error: assert "no_such_set" in str(error), error\n'
    'assert "tensorflow_datasets" in sys.modules\n'
    'assert not {"tensorflow", "jax"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
