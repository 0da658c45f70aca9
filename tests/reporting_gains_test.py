"""Tests the picture of scores with and without pretraining."""

import json
import xml.etree.ElementTree as ET

import pytest

from gpt1_jax.reporting import figures, plots, sections
from tests.support import run_folders
from tests.support.run_folders import accuracy, found


@pytest.fixture
def runs(tmp_path):
  """Three tasks: two of the paper, one of the user's."""
  for name, options in (('full', {'start': 'x'}), ('scratch', {})):
    better = 0.3 * (name == 'full')
    run_folders.seeds(
      tmp_path / f'sst2-{name}',
      'sst2',
      [accuracy(0.5 + better), accuracy(0.6 + better), accuracy(0.4 + better)],
      **options,
    )
  run_folders.finetuning(tmp_path / 'rte', 'rte', accuracy(0.55), start='x')
  mine = {'name': '<mine> $x', 'kind': 'classification'}
  folder = run_folders.finetuning(
    tmp_path / 'own', mine, accuracy(0.7), start='x'
  )
  scores = json.loads((folder / 'scores.json').read_text())
  scores['baselines'] = {'bag_of_words': {'accuracy': 0.75}}
  (folder / 'scores.json').write_text(json.dumps(scores))
  # Not pretrained, or not finished: neither makes a place.
  run_folders.finetuning(tmp_path / 'a', 'qnli', accuracy(0.5))
  run_folders.finetuning(tmp_path / 'b', 'mnli', None, start='x')
  return found(tmp_path)


def test_each_task_has_a_place_in_the_order_of_the_paper(runs):
  lines, scales = figures.gains(runs)
  assert scales.names == ['RTE', 'SST-2', '<mine> $x']
  assert {
    line.label: [(round(x), y) for x, y in line.points] for line in lines
  } == {
    'from scratch': [(1, pytest.approx(50.0))],
    'pretrained': [
      (0, pytest.approx(55.0)),
      (1, pytest.approx(80.0)),
      (2, pytest.approx(70.0)),
    ],
    'best simple method': [(2, pytest.approx(75.0))],
    'GPT-1 (paper)': [(0, 56.0), (1, 91.3)],
  }
  assert list(lines[1].ends[1]) == pytest.approx([70.0, 90.0])
  places = {x for line in lines for x, _ in line.points}
  assert len(places) == sum(len(line.points) for line in lines)  # none hidden


def test_gpt1_stands_beside_its_own_metric_only(tmp_path):
  for name, metric in (('a', 'accuracy'), ('b', 'matthews')):
    run_folders.finetuning(
      tmp_path / name, 'cola', {'dev': {metric: 0.7}}, start='x'
    )
    labels = {x.label for x in figures.gains(found(tmp_path / name))[0]}
    assert ('GPT-1 (paper)' in labels) == (metric == 'matthews')


def test_marks_stand_by_themselves_above_their_names(runs):
  svg = figures.gains_plot(runs)
  assert svg == figures.gains_plot(runs)
  texts = [''.join(text.itertext()) for text in ET.fromstring(svg).iter()]
  assert {'RTE', 'SST-2', '<mine> $x', 'pretrained'} <= {*texts}
  assert 'score (%)' in texts
  scales = plots.Scales('', '', names=('a', 'b'))
  points = [(0, 1), (1, 2)]
  apart, joined = (
    plots.Line('z', points, 0, marks=True, joined=joined)
    for joined in (False, True)
  )
  one, other = (plots.draw('p', [line], scales) for line in (apart, joined))
  strokes = [svg.count('stroke-width: 1.5') for svg in (one, other)]
  assert strokes == [0, 1]
  assert 'M0 5h28' not in plots.key(apart)
  assert 'M0 5h28' in plots.key(joined)


def test_the_report_has_the_picture(runs):
  section = sections.build(runs).sections[1]
  assert section.title == 'With and without pretraining'
  assert [plot.title for plot in section.plots] == ['Main score of each task']
  none = [run for run in runs if run.layers is None]
  assert figures.gains_plot(none) is None
  assert 'gains' not in {x.name for x in sections.build(none).sections}
