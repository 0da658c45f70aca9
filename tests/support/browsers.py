"""Starts Chromium to test pages in it."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
MARKS = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason='no chromium: apt install chromium'),
]


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
  """Yields a browser of playwright, which the caller has found installed."""
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    started = playwright.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox']
    )
    yield started
    started.close()
