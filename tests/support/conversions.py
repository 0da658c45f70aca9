"""Converts models in this process, and damages their files."""

import json

import pytest

from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion, huggingface, openai
from gpt1_jax.train import checkpoint


def from_openai(folder, workdir, n_head=None):
  """Converts OpenAI's arrays to a run; returns its checkpoint."""
  conversion.to_run(openai.read(folder, n_head), folder, workdir)
  return checkpoint.read(str(workdir))


def from_huggingface(folder, workdir):
  """Converts a Hugging Face folder to a run; returns its checkpoint."""
  conversion.to_run(huggingface.read(folder), folder, workdir)
  return checkpoint.read(str(workdir))


def refused(convert, source, tmp_path):
  """Returns the message of a refused conversion, which writes nothing."""
  with pytest.raises(UserError) as caught:
    convert(source, tmp_path / 'refused')
  assert not list(tmp_path.glob('refused*'))
  message = str(caught.value)
  assert '\n' not in message
  return message


def drop(name):
  """Returns a function that deletes a file of a folder."""
  return lambda folder: (folder / name).unlink()


def write(name, text):
  """Returns a function that overwrites a file of a folder."""
  return lambda folder: (folder / name).write_text(text)


def edit(name, change):
  """Returns a function that changes the JSON of a file of a folder."""

  def damage(folder):
    file = folder / name
    file.write_text(json.dumps(change(json.loads(file.read_text()))))

  return damage
