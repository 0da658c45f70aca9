"""Checks the fields of a task that a user describes in a config."""

from typing import Any

from gpt1_jax import errors

KINDS = ('classification', 'entailment', 'similarity', 'choice')
CLASS_METRICS = ('accuracy', 'f1', 'matthews')
VALUE_METRICS = ('pearson', 'spearman')


def checked(fields: dict[str, Any]) -> dict[str, Any]:
  """The fields of a user's own task, every one looked at, defaults filled in.

  Raises:
    UserError: fields that do not agree; the message names the key.
  """
  kind = fields.get('kind')
  if kind not in KINDS:
    raise errors.UserError(
      f'config.task.kind is {kind!r}: choose one of {", ".join(KINDS)}'
    )
  for key in ('labels', 'metrics', 'texts', 'folders', 'columns', 'tfds_texts'):
    if isinstance(fields.get(key, ()), str):
      raise errors.UserError(f'config.task.{key}: a tuple is wanted')
    if key in fields:
      fields[key] = tuple(str(value) for value in fields[key])
  labels = fields.get('labels', ())
  if len(set(labels)) < len(labels) or len(labels) == 1:
    raise errors.UserError(
      f'config.task.labels is {labels}: two or more different labels are '
      'wanted, or none for regression'
    )
  value = kind != 'choice' and not labels
  metrics = fields.setdefault(
    'metrics', VALUE_METRICS if value else ('accuracy',)
  )
  allowed = VALUE_METRICS if value else CLASS_METRICS
  if kind == 'choice' or len(labels) > 2:
    allowed = tuple(name for name in allowed if name != 'f1')
  for name in metrics or ('none',):
    if name not in allowed:
      raise errors.UserError(
        f'config.task.metrics: {name!r} does not fit this task, choose from '
        + ', '.join(allowed)
      )
  pair = kind in ('entailment', 'similarity')
  texts = fields.setdefault('texts', ('text', 'text_pair')[: 1 + pair])
  if len(texts) not in {'classification': (1,), 'choice': (1, 2)}.get(
    kind, (2,)
  ):
    raise errors.UserError(
      f'config.task.texts has {len(texts)} columns, too few or too many for '
      f'{kind}'
    )
  for key in ('files', 'tfds'):
    if key in fields:
      fields[key] = {s: _names(n) for s, n in fields[key].items()}
  return fields


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
  return (names,) if isinstance(names, str) else tuple(names)
