"""Declares the sections of fine-tuning: config.task, .transfer and .head."""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from gpt1_jax.settings import STRICT, DropoutRate

Words = tuple[str, ...]


def label_key(value: object) -> str:
  """Returns a label in a form to compare: 1 equals 1.0, True equals true.

  Composed and decomposed characters are equal (NFC); blanks at the ends do not
  count; null is empty.
  """
  text = '' if value is None else str(value)
  text = unicodedata.normalize('NFC', text).strip()
  if text in ('True', 'False'):  # a table may spell them as Python does
    return text.lower()
  return re.sub(r'^(-?[0-9]+)\.0+$', r'\1', text)


def _label(value: Any) -> Any:
  """Spells a label as JSON does: (0, True) becomes ('0', 'true')."""
  return json.dumps(value) if isinstance(value, int | float) else value


def _names(value: Any) -> Any:
  if isinstance(value, str):
    return (value,)
  return tuple(value) if isinstance(value, list) else value


Labels = tuple[Annotated[str, pydantic.BeforeValidator(_label)], ...]
# One name, or several in order of preference.
Names = Annotated[Words, pydantic.BeforeValidator(_names), Field(min_length=1)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnTask:
  """config.task as a mapping: a user-defined task.

  `tasks.definition.Task` describes every key and supplies the defaults.
  """

  kind: Literal['classification', 'entailment', 'similarity', 'choice']
  name: str = 'own'
  labels: Labels = ()
  metrics: Words | None = None
  texts: Words | None = None
  choices: str | None = None
  label: str | None = None
  files: dict[str, Names] | None = None
  folders: Words = ()
  columns: Words = ()
  bounds: tuple[float, float] | None = None
  cut_rows: bool = False
  dev_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
  tfds: dict[str, Names] | None = None
  tfds_texts: Words = ()


def _task_form(value: Any) -> str:
  return 'own' if isinstance(value, Mapping | OwnTask) else 'a name'


TaskSetting = Annotated[
  Annotated[str | None, pydantic.Tag('a name')]
  | Annotated[OwnTask, pydantic.Tag('own')],
  pydantic.Discriminator(_task_form),
]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class TransferSettings:
  """config.transfer.

  Attributes:
    layers: number of blocks copied from the pretrained run; -1 copies all.
  """

  layers: Annotated[int, Field(ge=-1)]


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadSettings:
  """config.head: the classifier and its objective.

  Attributes:
    clf_pdrop: dropout rate before the classifier (P §4.1).
    lm_coef: weight of the auxiliary LM loss, lambda of P §3.2.
    lm_reduction: 'tokens' averages the LM loss over all tokens (P);
      'sequences' averages within each sequence first (C: train.py).
    regression: 'scalar' predicts a score with one output; 'classes' has one
      output per integer within the task's bounds.
  """

  clf_pdrop: DropoutRate
  lm_coef: Annotated[float, Field(ge=0)]
  lm_reduction: Literal['tokens', 'sequences']
  regression: Literal['scalar', 'classes']
