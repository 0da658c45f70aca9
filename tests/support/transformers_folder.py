"""Loads a converted run with `transformers`."""

import pathlib
from typing import Any

from gpt1_jax.interop import conversion


def write_and_load(
  workdir: pathlib.Path, folder: pathlib.Path
) -> tuple[Any, Any]:
  """Converts a run; returns the model and tokenizer that transformers loads."""
  import transformers

  conversion.to_huggingface(workdir, folder)
  model, info = transformers.OpenAIGPTLMHeadModel.from_pretrained(
    folder, output_loading_info=True
  )
  assert not any(info.values()), info
  return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)
