"""Small archives of every task in their original layout, with invented rows.

Every text is `text(split, row, column)`, so that a test knows the contents
without reading the files.
"""

import csv
import io
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Iterable, Sequence

SPLITS = {'train': 4, 'dev': 3, 'test': 2}  # rows of most tasks
STORIES = {'val': 1871, 'test': 20}  # rows of Story Cloze's two files
# Files of RACE of each level, with questions in each, in natural order.
RACE = {'train': {'2.txt': 2, '10.txt': 3}, 'dev': {'9.txt': 3, '10.txt': 1}}
RACE['test'] = {'1.txt': 2}
LEVELS = ('middle', 'high')
_NLI = ('entailment', 'neutral', 'contradiction')
_PAIR = ('sentence1', 'sentence2')


def text(split: str, row: int, column: str) -> str:
  """Returns the text of a cell; its quote must survive reading."""
  return f'{split} "{row} {column} .'


def _lines(rows: Iterable[Sequence[object]]) -> str:
  return ''.join('\t'.join(map(str, row)) + '\n' for row in rows)


def _table(split: str, texts: Sequence[str], label: str, labels: Sequence):
  """A table with a header; without `label`, the first column is a number."""
  header = ('index', *texts, label) if label else ('index', *texts)
  rows: list[Sequence[object]] = [header]
  for n in range(SPLITS[split]):
    cells = [n, *(text(split, n, column) for column in texts)]
    rows.append([*cells, labels[n % len(labels)]] if label else cells)
  return _lines(rows)


def _glue(
  folder: str, texts: Sequence[str], labels: Sequence, label: str = 'label'
) -> dict[str, str]:
  return {
    f'{folder}/{split}.tsv': _table(
      split, texts, '' if split == 'test' else label, labels
    )
    for split in SPLITS
  }


def _cola() -> dict[str, str]:
  files = _glue('CoLA', ('sentence',), (0, 1))
  for split in ('train', 'dev'):  # no header
    files[f'CoLA/{split}.tsv'] = _lines(
      ('made', n % 2, '*' * (1 - n % 2), text(split, n, 'sentence'))
      for n in range(SPLITS[split])
    )
  return files


def _mnli() -> dict[str, str]:
  files = {'MNLI/train.tsv': _table('train', _PAIR, 'gold_label', _NLI)}
  for part in ('matched', 'mismatched'):
    dev = _table('dev', _PAIR, 'gold_label', _NLI)
    files[f'MNLI/dev_{part}.tsv'] = dev.replace('dev "', f'dev {part} "')
    test = _table('test', _PAIR, '', ())
    files[f'MNLI/test_{part}.tsv'] = test.replace('test "', f'test {part} "')
  return files


def _json_lines(split: str, labels: Sequence[str]) -> str:
  return ''.join(
    json.dumps(
      {
        'gold_label': labels[n % len(labels)],
        **{column: text(split, n, column) for column in _PAIR},
      }
    )
    + '\n'
    for n in range(SPLITS[split])
  )


def _scitail() -> dict[str, str]:
  """Three formats of SciTail: two without a header, one of JSON in a .txt."""
  files = {}
  for split in SPLITS:
    rows = [[text(split, n, c) for c in _PAIR] for n in range(SPLITS[split])]
    labels = [('entails', 'neutral')[n % 2] for n in range(len(rows))]
    for form, name in (
      ('tsv', 'scitail_1.0'),
      ('dgem', 'scitail_1.0_structure'),
    ):
      files[f'SciTailV1.1/{form}_format/{name}_{split}.tsv'] = _lines(
        [*pair, label] for pair, label in zip(rows, labels, strict=True)
      )
    files[f'SciTailV1.1/snli_format/scitail_1.0_{split}.txt'] = _json_lines(
      split, ('entailment', 'neutral')
    )
  return files


def _mrpc() -> dict[str, str]:
  header = ('Quality', '#1 ID', '#2 ID', '#1 String', '#2 String')
  files = {}
  for split, count in (('train', 10), ('test', 5)):
    rows = [
      (n % 3 % 2, 10 + n, 20 + n, text(split, n, '1'), text(split, n, '2'))
      for n in range(count)
    ]
    files[f'MRPC/{split}'] = '\ufeff' + _lines([header, *rows])
  files['MRPC/dev_ids'] = _lines((10 + n, 20 + n) for n in (1, 4, 8))
  return files


def _race() -> dict[str, str]:
  files = {}
  for split, names in RACE.items():
    for level in LEVELS:
      for name, count in names.items():
        place = f'{split} {level} {name}'
        article = {
          'article': text(place, 0, 'article'),
          'questions': [text(place, n, 'question _') for n in range(count)],
          'options': [
            [text(place, n, letter) for letter in 'ABCD'] for n in range(count)
          ],
          'answers': ['DABC'[n % 4] for n in range(count)],
          'id': f'{level}{name}',
        }
        files[f'RACE/{split}/{level}/{name}'] = json.dumps(article)
  return files


def _stories() -> dict[str, str]:
  columns = [f'InputSentence{n}' for n in (1, 2, 3, 4)]
  columns += ['RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2']
  files = {}
  for part, count in STORIES.items():
    stream = io.StringIO(newline='')
    table = csv.writer(stream)
    table.writerow(['InputStoryid', *columns, 'AnswerRightEnding'])
    for n in range(count):
      cells = (text(part, n, column) for column in columns)
      table.writerow([f'id-{n}', *cells, 1 + n % 2])
    name = f'cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv'
    files[f'StoryCloze/{name}'] = stream.getvalue()
  return files


_HEADED = {  # SNLI and MultiNLI ship tables and the same rows as JSON lines
  split: _table(split, _PAIR, 'gold_label', _NLI) for split in SPLITS
}
# Archive -> member -> text.
ARCHIVES: dict[str, dict[str, str]] = {
  'CoLA.zip': _cola(),
  'SST-2.zip': _glue('SST-2', ('sentence',), (0, 1)),
  'RTE.zip': _glue('RTE', _PAIR, ('not_entailment', 'entailment')),
  'WNLI.zip': _glue('WNLI', _PAIR, (1, 0)),
  'QNLI.zip': _glue(
    'QNLI', ('question', 'sentence'), ('entailment', 'not_entailment')
  ),
  'QQP.zip': _glue('QQP', ('question1', 'question2'), (0, 1), 'is_duplicate'),
  'STS-B.zip': _glue('STS-B', _PAIR, (5.0, 0.25, 3.75), 'score'),
  'MNLI.zip': _mnli(),
  'AX.zip': {'AX/ax.tsv': _table('test', _PAIR, '', ())},
  'MRPC.zip': _mrpc(),
  'snli_1.0.zip': {
    f'snli_1.0/snli_1.0_{split}.txt': table for split, table in _HEADED.items()
  },
  'multinli_1.0.zip': {
    f'multinli_1.0/multinli_1.0_{name}.jsonl': _json_lines(split, _NLI)
    for name, split in (
      ('train', 'train'),
      ('dev_matched', 'dev'),
      ('dev_mismatched', 'dev'),
    )
  },
  'SciTailV1.1.zip': _scitail(),
  'RACE.tar.gz': _race(),
  'StoryCloze.zip': _stories(),
}


def pack(path: pathlib.Path, members: dict[str, str]) -> pathlib.Path:
  """Writes a zip or a tar, by the name of `path`."""
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      for member, content in members.items():
        archive.writestr(member, content)
    return path
  with tarfile.open(path, 'w' if path.suffix == '.tar' else 'w:gz') as tar:
    for member, content in members.items():
      info = tarfile.TarInfo(member)
      info.size = len(content.encode())
      tar.addfile(info, io.BytesIO(content.encode()))
  return path


def unpack(folder: pathlib.Path, members: dict[str, str]) -> pathlib.Path:
  """Writes the members of an archive as plain files."""
  for member, content in members.items():
    path = folder / member
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
  return folder


def pack_all(folder: pathlib.Path) -> pathlib.Path:
  """Writes all of `ARCHIVES` into a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, members in ARCHIVES.items():
    pack(folder / name, members)
  return folder
