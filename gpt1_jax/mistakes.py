"""Turns pydantic's mistakes into lines: the key, its value, what is allowed."""

import dataclasses
import difflib
import reprlib
import typing
from typing import Any, cast

# pydantic's name of a mistake -> what is allowed, filled with its numbers.
_ALLOWED = {
  'int_type': 'an integer is wanted',
  'int_from_float': 'an integer is wanted',
  'float_type': 'a number is wanted',
  'finite_number': 'a finite number is wanted',
  'string_type': 'a string is wanted',
  'bool_type': 'True or False is wanted',
  'tuple_type': 'a list of values is wanted',
  'dict_type': 'a section of keys and values is wanted',
  'dataclass_type': 'a section of keys and values is wanted',
  'greater_than_equal': 'at least {ge} is wanted',
  'greater_than': 'a value above {gt} is wanted',
  'less_than_equal': 'at most {le} is wanted',
  'less_than': 'a value below {lt} is wanted',
  'literal_error': '{expected} is wanted',
  'union_tag_invalid': '{expected_tags} is wanted',
  'too_short': 'at least {min_length} value is wanted',
}


def line(kind: type, mistake: Any) -> str:
  """Returns one of pydantic's mistakes as a line that names key and value."""
  cause, value, loc = mistake['type'], mistake['input'], mistake['loc']
  path, hint, known = ['config'], cast(Any, kind), {}
  for depth, part in enumerate(loc):
    known = _keys(hint)
    last = depth == len(loc) - 1
    if part in known or (last and cause == 'unexpected_keyword_argument'):
      path.append(str(part))
      hint = known.get(part)
    elif isinstance(part, int):
      path[-1] += f'[{part}]'
    else:  # the tag of a union, such as the kind of model
      hint = next((c for c in _classes(hint) if _is_tagged(c, part)), hint)
  key = '.'.join(path)
  if cause == 'missing':
    return f'{key} is missing'
  if cause == 'unexpected_keyword_argument':
    near = difflib.get_close_matches(str(loc[-1]), known, 1, 0.6)
    close = (
      f'did you mean {near[0]}?' if near else 'keys are ' + ', '.join(known)
    )
    return f'{key}: there is no such key; {close}'
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


def _keys(hint: Any) -> dict[str, Any]:
  """Returns the keys of the sections in a type, with their types."""
  found = (field for c in _classes(hint) for field in dataclasses.fields(c))
  return {field.name: field.type for field in found}


def _classes(hint: Any) -> list[Any]:
  if dataclasses.is_dataclass(hint):
    return [hint]
  return [c for part in typing.get_args(hint) for c in _classes(part)]


def _is_tagged(section: Any, tag: str) -> bool:
  return typing.get_args(_keys(section).get('kind')) == (tag,)
