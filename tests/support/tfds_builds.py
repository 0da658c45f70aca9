"""Runs TFDS's own builders on local files; only their downloads are faked."""

import os
import pathlib

import pytest

from gpt1_jax.tasks.readers import tfds_rows

# TFDS and its imports raise deprecation warnings.
ALLOW_WARNINGS = pytest.mark.filterwarnings('ignore')


class _LocalFiles:
  """Replaces TFDS's download manager by files that already exist."""

  downloaded_size = 0

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self.manual_dir = os.fspath(folder)

  def download_and_extract(self, url):
    from etils import epath

    return epath.Path(self._folder)

  def download(self, urls):
    if isinstance(urls, str):
      return self._folder / 'ax.tsv'
    return {key: self._folder / 'MRPC' / key for key in urls}


def build(
  name: str,
  folder: pathlib.Path,
  data_dir: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Has TFDS's builder `name` write ArrayRecord files of a folder's files."""
  import tensorflow_datasets as tfds

  tfds.disable_progress_bar()
  with monkeypatch.context() as patch:
    patch.setattr(
      tfds.core.DatasetBuilder,
      '_make_download_manager',
      lambda *_, **__: _LocalFiles(folder),
    )
    tfds_rows.prepared_builder(name, str(data_dir))
