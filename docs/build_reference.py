"""Writes the reference pages from the code: settings, commands, Python.

mkdocs runs it (gen-files). Nothing here is kept by hand: a key's meaning is
that of its class's docstring, a command's page is its --help. In a clone, pages
of the same names in docs/reference say where to find this.
"""

import dataclasses
import inspect
import os
import pathlib
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import mkdocs_gen_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from configs import finetune, pretrain  # noqa: E402
from gpt1_jax import config, settings  # noqa: E402

# For each stage: its configuration, the classes of config.model and the values
# of the default preset.
STAGES = {
  'Pretraining': (
    config.PretrainConfig,
    {'gpt': settings.GPTSettings, 'lstm': settings.LSTMSettings},
    lambda word: pretrain.get_config('paper' if word == 'gpt' else word),
  ),
  'Fine-tuning': (
    config.FinetuneConfig,
    {
      'gpt': settings.FinetuneGPTSettings,
      'lstm': settings.FinetuneLSTMSettings,
    },
    lambda word: finetune.get_config('rte' if word == 'gpt' else 'rte,lstm'),
  ),
}


def meanings(cls: type) -> dict[str, str]:
  """Returns what each attribute means, by the docstrings of cls and its bases.

  An entry `a, b: text` describes both.
  """
  out: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    _, _, entries = inspect.cleandoc(vars(base).get('__doc__') or '').partition(
      'Attributes:\n'
    )
    for entry in re.split(r'\n  (?=\w)', f'\n{entries}')[1:]:
      names, _, meaning = entry.partition(':')
      for name in names.split(', '):
        out[name] = ' '.join(meaning.split())
  return out


def describe(annotation: Any) -> str:
  """Returns the allowed values of a field, in Markdown."""
  origin = typing.get_origin(annotation)
  if origin is typing.Literal:
    return ', '.join(f'`{value}`' for value in typing.get_args(annotation))
  if origin is typing.Annotated:
    inner, *limits = typing.get_args(annotation)
    signs = {'ge': '≥', 'gt': '>', 'le': '≤', 'lt': '<'}
    bounds = [
      f'{sign} {_number(getattr(limit, name))}'
      for field in limits
      for limit in getattr(field, 'metadata', [field])
      for name, sign in signs.items()
      if hasattr(limit, name)
    ]
    return ', '.join([describe(inner), *bounds])
  return getattr(annotation, '__name__', str(annotation)).replace('|', 'or')


def _number(value: float) -> str:
  return f'{value:,}' if isinstance(value, int) else f'{value:g}'


def table(cls: type, section: str, values: dict[str, Any]) -> Iterator[str]:
  """Yields the lines of a section's table."""
  yield '| key | default | values | meaning |'
  yield '|---|---|---|---|'
  known = meanings(cls)
  hints = typing.get_type_hints(cls, include_extras=True)
  for field in dataclasses.fields(cls):
    default = values.get(field.name)
    shown = '' if default is None else str(default) or "''"
    shown = shown and f'`{shown}`'
    kind = describe(hints[field.name])
    if field.name not in known:
      raise KeyError(f'{cls.__name__} does not describe {field.name}')
    yield (
      f'| `config.{section}.{field.name}` | {shown} | {kind} '
      f'| {known[field.name]} |'
    )


def write_settings() -> None:
  with mkdocs_gen_files.open('reference/settings.md', 'w') as page:
    print(
      '# Settings\n\n'
      'Made from `gpt1_jax/settings.py` and `gpt1_jax/config.py`. '
      'Defaults are those of `configs/pretrain.py` (preset `paper`) and '
      '`configs/finetune.py`. `--config.SECTION.KEY=VALUE` changes one, '
      '`--print_config` shows all. P is the paper, C the released code.\n',
      file=page,
    )
    for stage, (cls, models, get) in STAGES.items():
      hints = typing.get_type_hints(cls)
      print(f'## {stage}\n', file=page)
      alone = meanings(cls)
      for name, meaning in alone.items():
        print(f'- `config.{name}`: {meaning}', file=page)
      for field in dataclasses.fields(cls):
        sections = (
          models
          if field.name == 'model'
          else {'': hints[field.name]}
          if dataclasses.is_dataclass(hints[field.name])
          else {}
        )
        for kind, section in sections.items():
          values = get(kind or 'gpt').to_dict()[field.name]
          title = f'{kind.upper()} ' if kind else ''
          print(f'\n### {stage}: {title}config.{field.name}\n', file=page)
          for line in table(section, field.name, values):
            print(line, file=page)
      print(file=page)


def write_commands() -> None:
  """Writes the --help page of every command."""
  doors = sorted(
    path.stem
    for path in (ROOT / 'gpt1_jax').glob('*.py')
    if 'cli.run(main' in path.read_text(encoding='utf-8')
  )
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
  with mkdocs_gen_files.open('reference/commands.md', 'w') as page:
    print('# Commands\n\nThe `--help` of each command.\n', file=page)
    for door in doors:
      command = [sys.executable, '-m', f'gpt1_jax.{door}', '--help']
      text = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, check=True
      ).stdout.decode()
      text = text.replace(f'{ROOT}/', '')
      print(f'## {door}\n\n```text\n{text.strip()}\n```\n', file=page)


def write_python() -> None:
  """Writes the page of the functions and classes that other programs use."""
  names = (
    'inference.loading',
    'inference.options.Options',
    'inference.options.OptionValues',
    'inference.continuation.Piece',
    'train.program',
    'train.loop',
    'model.gpt',
    'model.decoding',
  )
  with mkdocs_gen_files.open('reference/python.md', 'w') as page:
    print('# Python\n', file=page)
    for name in names:
      print(f'::: gpt1_jax.{name}\n', file=page)


write_settings()
write_commands()
write_python()
