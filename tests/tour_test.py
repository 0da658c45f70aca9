"""The notebook of the docs runs from its first cell to its last."""

import os

import pytest

from tests import QUICKLY_COMPILED
from tests.support import commands

nbformat = pytest.importorskip('nbformat', reason="pip install '.[notebook]'")
nbclient = pytest.importorskip('nbclient', reason="pip install '.[notebook]'")
pytestmark = [
  pytest.mark.slow,
  # jupyter_client and pyzmq warn.
  pytest.mark.filterwarnings('ignore'),
]


def test_the_tour_runs(pretrained, monkeypatch):
  """A network that has learned nothing stands for models/mini."""
  monkeypatch.setenv('GPT1_JAX_MODEL', str(pretrained))
  # Batches of ten lines do not split evenly over the tests' eight devices.
  monkeypatch.setenv('XLA_FLAGS', QUICKLY_COMPILED)
  monkeypatch.setenv('PYTHONPATH', os.fspath(commands.ROOT))
  notebook = nbformat.read(commands.ROOT / 'docs/tour.ipynb', as_version=4)
  nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': commands.ROOT}}
  ).execute()
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  texts = [
    ''.join(
      out.get('text', '') or out.get('data', {}).get('text/plain', '')
      for out in cell.outputs
    )
    for cell in code
  ]
  assert 'parameters' in texts[0]
  assert 'perplexity' in texts[3]
  assert any('image/png' in out.get('data', {}) for out in code[4].outputs)
  assert (
    "'prediction': 'good'" in texts[-1] or "'prediction': 'bad'" in texts[-1]
  )
