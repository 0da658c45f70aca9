"""Describes mistakes in a configuration: key, value and allowed values."""

import dataclasses
import difflib
import json
import reprlib
import typing
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pydantic

from gpt1_jax.errors import UserError

# pydantic's error type -> requirement; pydantic's error context fills it in.
_ALLOWED = {
  'int_type': 'must be an integer',
  'int_from_float': 'must be an integer',
  'float_type': 'must be a number',
  'finite_number': 'must be finite',
  'string_type': 'must be a string',
  'string_too_short': 'must not be empty',
  'bool_type': 'must be True or False',
  'tuple_type': "must be a list of values, as in \"('a', 'b')\"",
  'dict_type': 'must be a section of keys and values',
  'dataclass_type': 'must be a section of keys and values',
  'greater_than_equal': 'must be at least {ge}',
  'greater_than': 'must be above {gt}',
  'less_than_equal': 'must be at most {le}',
  'less_than': 'must be below {lt}',
  'literal_error': 'must be {expected}',
  'union_tag_invalid': 'must be {expected_tags}',
  'too_short': 'must have at least {min_length} value',
}


def first(error: pydantic.ValidationError) -> str:
  """Describes the first error of a file's content: its place and problem."""
  found = error.errors(include_url=False)[0]
  return ': '.join(
    filter(None, ['.'.join(map(str, found['loc'])), found['msg']])
  )


def refusal(kind: type, errors: Sequence[Any]) -> UserError:
  """Returns an error with a line for each of pydantic's errors."""
  lines = [line(kind, error) for error in errors]
  if len(lines) == 1:
    return UserError(lines[0])
  return UserError('\n  '.join([f'{len(lines)} invalid settings:', *lines]))


def line(kind: type, mistake: Any) -> str:
  """Formats one of pydantic's errors as a line that names key and value."""
  cause, value, loc = mistake['type'], mistake['input'], mistake['loc']
  if cause == 'json_invalid':  # an unpaired surrogate, which JSON lacks
    found = _not_utf8(json.loads(value), 'config')
    return next(found, f'config: {mistake["msg"]}')
  path, hint, known = ['config'], cast(Any, kind), {}
  for depth, part in enumerate(loc):
    known = _keys(hint)
    last = depth == len(loc) - 1
    if part in known or (last and cause == 'unexpected_keyword_argument'):
      path.append(str(part))
      hint = known.get(part)
    elif isinstance(part, int):
      path[-1] += f'[{part}]'
    else:  # the tag of a union, such as the model's kind
      hint = next((c for c in _classes(hint) if _is_tagged(c, part)), hint)
  key = '.'.join(path)
  if cause == 'missing':
    return f'{key} is missing'
  if cause == 'unexpected_keyword_argument':
    near = difflib.get_close_matches(str(loc[-1]), known, 1, 0.6)
    close = (
      f'did you mean {near[0]}?' if near else 'use one of ' + ', '.join(known)
    )
    return f'{key}: no such key; {close}'
  if cause == 'value_error':
    return f'{key}: {mistake["ctx"]["error"]}'
  if value is None:
    return f'{key} is not set; give --{key}=...'
  if cause == 'union_tag_not_found':
    return f'{key}.kind is missing'
  if cause == 'union_tag_invalid':
    key, value = f'{key}.kind', mistake['ctx']['tag']
  allowed = _ALLOWED.get(cause, mistake['msg'].lower())
  allowed = allowed.format(**mistake.get('ctx', {}))
  return f'{key} is {reprlib.repr(value)}: {allowed}'


def _not_utf8(value: Any, key: str) -> Iterator[str]:
  """Yields a line for each text that cannot be encoded."""
  if isinstance(value, dict):
    for name, each in value.items():
      yield from _not_utf8(each, f'{key}.{name}')
  elif isinstance(value, list):
    for i, each in enumerate(value):
      yield from _not_utf8(each, f'{key}[{i}]')
  elif isinstance(value, str):
    try:
      value.encode()
    except UnicodeEncodeError as error:
      yield (
        f'{key} is {reprlib.repr(value)}: not UTF-8 at character '
        f'{error.start + 1}; rename the file or folder'
      )


def _keys(hint: Any) -> dict[str, Any]:
  """Returns the fields of the dataclasses in a type hint, with their types."""
  found = (field for c in _classes(hint) for field in dataclasses.fields(c))
  return {field.name: field.type for field in found}


def _classes(hint: Any) -> list[Any]:
  if dataclasses.is_dataclass(hint):
    return [hint]
  return [c for part in typing.get_args(hint) for c in _classes(part)]


def _is_tagged(section: Any, tag: str) -> bool:
  return typing.get_args(_keys(section).get('kind')) == (tag,)
