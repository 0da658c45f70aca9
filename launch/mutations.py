"""Changes the content of a file at random, as damage and mistakes do."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

# Bytes that files contain by mistake. Long ones are rare: each takes 1 ms.
_ODD = (
  b'\0', b'\xff', b'\xff\xfe', b'\xef\xbb\xbf', b'\xed\xa0\x80', b'\xc3',
  b'\n', b'\r', b'\r\n', b'\n\n', b'\t', b'"', b'""', b"'", b',', b':', b'\\',
  b'{', b'}', b'[', b']', b'[]', b'{}', b'NaN', b'Infinity', b'-Infinity',
  b'1e999', b'-1', b'0', b'1.5', b'-0', b'1e-999', b'null', b'true', b'false',
  b'\\ud800', b'\\u0000', '\u2028'.encode(), '\u00df'.encode(), b'../',
  b'\x1b[0m', b'<script>', b'9223372036854775808', b'4294967296', b'#version',
)  # fmt: skip
_LONG = (b'[' * 100_000, b'{"a":' * 20_000, b'9' * 5000, b'x' * 200_000)
_VALUES: tuple[Any, ...] = (
  None, True, False, 0, 1, -1, 2, 2**31, 2**63, 10**400, -(2**70), 0.5, -0.0,
  1e308, float('nan'), float('inf'), '', ' ', 'x', '0', '\0', '\ud800',
  '\u212a', '../x', 'x' * 300, [], [None], [[]], ['x', 1], {}, {'x': None},
  {'': ''}, [1, 2, 3],
)  # fmt: skip
_AS_JSON = 0.5  # share of the changes to JSON that keep it JSON


def mutate(content: bytes, rng: random.Random) -> bytes:
  """Returns the content after one or a few changes."""
  for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
    content = rng.choice(_CHANGES)(content, rng)
  return content


def damages(
  content: bytes, rng: random.Random, bits: int
) -> Iterator[tuple[str, bytes | None]]:
  """Yields (kind of damage, damaged content); None means a deleted file."""
  for _ in range(bits):
    yield 'bit', _flip(content, rng)
  yield 'zeros', bytes(len(content))
  yield 'cut', content[: len(content) // 2]
  yield 'empty', b''
  yield 'deleted', None


def mutate_json(content: bytes, rng: random.Random) -> bytes:
  """Changes values in JSON or in one JSON line; otherwise calls `mutate`."""
  if rng.random() > _AS_JSON:
    return mutate(content, rng)
  lines = content.split(b'\n')
  try:
    value, number = json.loads(content), None
  except ValueError:
    number = rng.randrange(len(lines))
    try:
      value = json.loads(lines[number])
    except ValueError:
      return mutate(content, rng)
  for _ in range(rng.choice((1, 1, 2))):
    value = mutate_value(value, rng)
  made = json.dumps(value).encode()
  if number is None:
    return made
  lines[number] = made
  return b'\n'.join(lines)


def mutate_value(value: Any, rng: random.Random) -> Any:
  """Replaces, removes or adds one value somewhere inside nested values."""
  if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
    return odd_value(rng)
  keys = value if isinstance(value, dict) else range(len(value))
  key: Any = rng.choice(list(keys))
  copy = value.copy()
  action = rng.random()
  if action < 0.1:
    del copy[key]
  elif action < 0.2 and isinstance(copy, dict):
    copy[rng.choice(('x', '', key + ' ', key.upper()))] = copy.pop(key)
  elif action < 0.25 and isinstance(copy, list):
    copy.insert(key, odd_value(rng))
  else:
    copy[key] = mutate_value(copy[key], rng)
  return copy


def odd_value(rng: random.Random) -> Any:
  """Draws a value that is wrong for most keys."""
  return rng.choice(_VALUES)


def _flip(content: bytes, rng: random.Random) -> bytes:
  if not content:
    return b'\1'
  at = rng.randrange(len(content))
  byte = content[at] ^ 1 << rng.randrange(8)
  return content[:at] + bytes([byte]) + content[at + 1 :]


def _cut(content: bytes, rng: random.Random) -> bytes:
  return content[: rng.randrange(len(content) + 1)]


def _remove(content: bytes, rng: random.Random) -> bytes:
  begin, end = _span(content, rng)
  return content[:begin] + content[end:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
  begin, end = _span(content, rng)
  return content[:end] + content[begin:]


def _move(content: bytes, rng: random.Random) -> bytes:
  begin, end = _span(content, rng)
  rest = content[:begin] + content[end:]
  at = rng.randrange(len(rest) + 1)
  return rest[:at] + content[begin:end] + rest[at:]


def _fill(content: bytes, rng: random.Random) -> bytes:
  begin, end = _span(content, rng)
  return content[:begin] + rng.choice(_FILLS) * (end - begin) + content[end:]


def _insert(content: bytes, rng: random.Random) -> bytes:
  at = rng.randrange(len(content) + 1)
  odd = rng.choice(_LONG if rng.random() < 0.01 else _ODD)
  return content[:at] + odd + content[at:]


def _replace(content: bytes, rng: random.Random) -> bytes:
  at = rng.randrange(len(content) + 1)
  odd = rng.choice(_ODD)
  return content[:at] + odd + content[at + len(odd) :]


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
  """Returns a short part of the content, rarely a long one."""
  begin = rng.randrange(len(content) + 1)
  longest = rng.choice((1, 4, 32, len(content)))
  return begin, min(len(content), begin + rng.randint(1, max(1, longest)))


_FILLS = (b'\0', b'\xff', b' ', b'9')
_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
  _flip, _flip, _cut, _remove, _repeat, _move, _fill, _insert, _insert,
  _replace,
)  # fmt: skip
