"""Reads every task from its original archive and from TFDS.

TFDS's own builders write real ArrayRecord files of the archives' rows; only
their downloads are replaced.
"""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.model_selection

from gpt1_jax.errors import UserError
from gpt1_jax.task_settings import OwnTask
from gpt1_jax.tasks import examples, table
from gpt1_jax.tasks.examples import Example
from gpt1_jax.tasks.readers import sources
from tests.support import task_archives, tfds_builds
from tests.support.task_archives import ARCHIVES, text

# Task -> archive, and its rows in train, dev and test.
ROWS = {
  'cola': ('CoLA.zip', (4, 3, 2)),
  'sst2': ('SST-2.zip', (4, 3, 2)),
  'rte': ('RTE.zip', (4, 3, 2)),
  'wnli': ('WNLI.zip', (4, 3, 2)),
  'qnli': ('QNLI.zip', (4, 3, 2)),
  'qqp': ('QQP.zip', (4, 3, 2)),
  'stsb': ('STS-B.zip', (4, 3, 2)),
  'mnli': ('MNLI.zip', (4, 3, 2)),
  'snli': ('snli_1.0.zip', (4, 3, 2)),
  'scitail': ('SciTailV1.1.zip', (4, 3, 2)),
  'mrpc': ('MRPC.zip', (7, 3, 5)),
  'race': ('RACE.tar.gz', (10, 8, 4)),
  'race_middle': ('RACE.tar.gz', (5, 4, 2)),
  'race_high': ('RACE.tar.gz', (5, 4, 2)),
  'story_cloze': ('StoryCloze.zip', (1497, 374, 20)),
}


@pytest.mark.parametrize('name', ROWS)
def test_task_in_a_folder_of_archives(archives, tmp_path, name):
  archive, counts = ROWS[name]
  task, members = table.TASKS[name], ARCHIVES[archive]
  unpacked = task_archives.unpack(tmp_path, members)
  column = task.texts[0]
  for split, count in zip(('train', 'dev', 'test'), counts, strict=True):
    assert sources.has(task, archives, split)
    found = examples.read(task, archives, split)
    assert len(found) == count
    assert examples.read(task, archives / archive, split) == found
    assert examples.read(task, unpacked, split) == found
    if task.layout == 'rows' and name != 'mrpc':
      part = 'matched ' if name == 'mnli' and split != 'train' else ''
      assert [example.texts[0] for example in found] == [
        text(split, n, column).replace('"', f'{part}"') for n in range(count)
      ]


def test_mnli_has_two_dev_sets_two_test_sets_and_ax(archives):
  task = table.TASKS['mnli']
  for split in ('dev_mismatched', 'test_mismatched'):
    found = examples.read(task, archives, split)
    assert found[0].texts[0].startswith(split.replace('_', ' '))
  found = examples.read(task, archives / 'AX.zip', 'test_ax')
  assert [e.label for e in found] == [None] * 2
  assert not sources.has(task, archives / 'multinli_1.0.zip', 'test')


def test_mrpc_dev_rows_leave_the_training_rows(archives):
  for split, numbers in (('dev', (1, 4, 8)), ('train', (0, 2, 3, 5, 6, 7, 9))):
    found = examples.read(table.TASKS['mrpc'], archives, split)
    assert [e.texts[0] for e in found] == [
      text('train', n, '1') for n in numbers
    ]


@pytest.mark.parametrize('form', ['tsv', 'dgem', 'snli'])
def test_every_format_of_scitail(tmp_path, form):
  members = ARCHIVES['SciTailV1.1.zip']
  inside = {name: x for name, x in members.items() if f'/{form}_' in name}
  folder = task_archives.unpack(tmp_path, inside)
  for split, count in task_archives.SPLITS.items():
    found = examples.read(table.TASKS['scitail'], folder, split)
    assert [e.label for e in found] == [n % 2 for n in range(count)]


def test_race_yields_questions_in_natural_order(archives):
  whole = examples.read(table.TASKS['race'], archives, 'dev')
  halves = [
    examples.read(table.TASKS[f'race_{level}'], archives, 'dev')
    for level in task_archives.LEVELS
  ]
  for level, half in zip(task_archives.LEVELS, halves, strict=True):
    assert half == examples.read(table.TASKS['race'], archives, f'dev_{level}')
  assert [e.texts for e in whole] == [e.texts for h in halves for e in h]
  place = 'dev middle 9.txt'
  assert whole[1] == Example(
    (text(place, 0, 'article'), text(place, 1, 'question _')),
    tuple(text(place, 1, letter) for letter in 'ABCD'),
    0,
  )
  assert 'middle 10.txt' in whole[3].texts[0]  # after 9.txt
  assert [e.label for e in whole] == [3, 0, 1, 3] * 2


def test_half_of_race_is_not_the_whole(tmp_path):
  members = ARCHIVES['RACE.tar.gz']
  high = {name: x for name, x in members.items() if '/high/' in name}
  path = task_archives.pack(tmp_path / 'race.zip', high)
  with pytest.raises(UserError) as caught:
    examples.read(table.TASKS['race'], path, 'train')
  assert str(caught.value) == (
    f'no train file of task race: looked in {path} for train/middle/*.txt'
  )


def test_story_cloze_is_split_as_the_released_code_does(archives):
  task = table.TASKS['story_cloze']
  expected = sklearn.model_selection.train_test_split(  # C: datasets.py
    np.arange(1871), test_size=374, random_state=3535999445
  )
  for split, chosen in zip(('train', 'dev'), expected, strict=True):
    found = examples.read(task, archives, split)
    starts = [text('val', n, 'InputSentence1') for n in sorted(chosen)]
    assert all(map(str.startswith, (e.texts[0] for e in found), starts))
    assert len(found) == len(chosen)
  test = examples.read(task, archives, 'test')
  assert test[1] == Example(
    (' '.join(text('test', 1, f'InputSentence{n}') for n in range(1, 5)),),
    tuple(text('test', 1, f'RandomFifthSentenceQuiz{n}') for n in (1, 2)),
    1,
  )


def test_story_cloze_with_hidden_test_labels(tmp_path):
  members = ARCHIVES['StoryCloze.zip']
  (name,) = (name for name in members if 'ALL_test' in name)
  lines = members[name].splitlines()
  hidden = '\n'.join(line.rpartition(',')[0] for line in lines)
  task_archives.unpack(tmp_path, {name: hidden})
  found = examples.read(table.TASKS['story_cloze'], tmp_path, 'test')
  assert [example.label for example in found] == [None] * 20


@pytest.mark.parametrize('name', table.TASKS)
def test_missing_files_are_reported_with_the_places_searched(tmp_path, name):
  task = table.TASKS[name]
  with pytest.raises(UserError) as caught:
    examples.read(task, tmp_path, 'train')
  for part in (
    f'no train file of task {name}',
    task.files['train'][0],
    f'*/{task.folders[0]}/',
  ):
    assert part in str(caught.value)
  assert '\n' not in str(caught.value)


@tfds_builds.ALLOW_WARNINGS
@pytest.mark.parametrize('name', [n for n in ROWS if '_' not in n])
def test_tfds_has_the_rows_of_the_archive(name, tmp_path, monkeypatch):
  task = table.TASKS[name]
  folder = task_archives.unpack(tmp_path / 'files', ARCHIVES[ROWS[name][0]])
  task_archives.unpack(folder, {'ax.tsv': ARCHIVES['AX.zip']['AX/ax.tsv']})
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
    elif name in ('snli', 'scitail', 'mrpc'):  # numbered in another way
      found, expected = (
        [(e.texts, e.label) for e in x] for x in (found, expected)
      )
    if name in ('snli', 'scitail'):  # no numbers: TFDS's own order
      found, expected = sorted(found), sorted(expected)
    assert found == expected


@tfds_builds.ALLOW_WARNINGS
def test_story_cloze_from_tfds(tmp_path, monkeypatch):
  folder = tmp_path / 'files'
  task_archives.unpack(folder, ARCHIVES['StoryCloze.zip'])
  folder /= 'StoryCloze'
  for part in ('val', 'test'):  # TFDS's names
    (path,) = folder.glob(f'*{part}__*.csv')
    path.rename(folder / f'cloze_test_{part}__spring2016.csv')
  name = 'story_cloze/2016'
  tfds_builds.build(name, folder, tmp_path / 'tfds', monkeypatch)
  task, path = table.TASKS['story_cloze'], f'tfds:{tmp_path}/tfds'
  counts = [len(examples.read(task, path, s)) for s in ('train', 'dev', 'test')]
  assert counts == [1497, 374, 20]
  both = (examples.read(task, p, 'test') for p in (path, folder))
  found, expected = ({(e.texts, e.choices, e.label) for e in x} for x in both)
  assert found == expected


@tfds_builds.ALLOW_WARNINGS
def test_own_task_from_tfds(tmp_path, monkeypatch):
  folder = task_archives.unpack(tmp_path / 'files', ARCHIVES['SST-2.zip'])
  tfds_builds.build('glue/sst2', folder, tmp_path / 'tfds', monkeypatch)
  own = OwnTask(
    kind='classification',
    labels=('negative', 'positive'),
    texts=('sentence',),
    tfds={'train': 'glue/sst2:train[:2]', 'dev': 'glue/sst2:train'},
  )
  task, path = table.resolve(own), f'tfds:{tmp_path}/tfds'
  assert len(examples.read(task, path, 'train')) == 2
  dev = examples.read(task, path, 'dev')
  assert [example.label for example in dev] == [0, 1, 0, 1]
  with pytest.raises(UserError, match='TFDS lacks its test split'):
    examples.read(task, path, 'test')


@tfds_builds.ALLOW_WARNINGS
def test_failure_of_tfds_is_one_line(tmp_path):
  def own(address):
    return table.resolve(OwnTask(kind='similarity', tfds={'train': address}))

  with pytest.raises(UserError) as caught:
    examples.read(own('no_such_set:train'), f'tfds:{tmp_path}', 'train')
  assert str(caught.value).startswith('tfds:no_such_set:train: cannot be read')
  assert '\n' not in str(caught.value)
  assert not sources.has(own('no_such_set:train'), f'tfds:{tmp_path}', 'train')
  with pytest.raises(UserError, match=r'tfds:rte: write NAME\[/CONFIG\]'):
    examples.read(own('rte'), 'tfds', 'train')


def test_tfds_imports_no_tensorflow():
  code = (
    'import sys; from gpt1_jax.tasks.readers import tfds_rows\n'
    'try: tfds_rows.read("no_such_set:train", "/nowhere")\n'
    'except Exception as error: assert "no_such_set" in str(error), error\n'
    'assert "tensorflow_datasets" in sys.modules\n'
    'assert not {"tensorflow", "jax"} & set(sys.modules)\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
