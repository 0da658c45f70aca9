"""Checks every command of README and docs against the programs themselves."""

import functools
import re
import shlex

import pytest

from tests.support import commands as processes
from tests.support.commands import ROOT

PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  'models/mini/README.md',
  *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob('docs/**/*.md')),
]
BLOCK = re.compile(
  r'```(?:sh|bash)\n(.*?)```|((?:^ {4}\S.*\n|^ {8,}\S.*\n)+)', re.M | re.S
)


def commands(page):
  """Yields each shell command of a page's blocks as a list of words."""
  text = (ROOT / page).read_text(encoding='utf-8')
  for fenced, indented in BLOCK.findall(text):
    lines = (fenced or indented).replace('\\\n', ' ').splitlines()
    for line in lines:
      try:
        words = shlex.split(line, comments=True)
      except ValueError:
        continue  # prose or a table in an indented block
      if words[:1] in (['python'], ['make'], ['pip']) or (
        words and words[0].startswith('launch/')
      ):
        yield words


FOUND = sorted(
  {(page, tuple(words)) for page in PAGES for words in commands(page)}
)


run = functools.cache(processes.run)


@functools.cache
def known_extras():
  text = (ROOT / 'setup.py').read_text(encoding='utf-8')
  text = text.partition('extras_require={')[2]
  return set(re.findall(r"^    '(\w+)': ", text, re.M))


def program(words):
  """Returns (program, its arguments): a command or a script of launch/."""
  if words[1] == '-m':
    return words[2].removeprefix('gpt1_jax.'), words[3:]
  return words[1], words[2:]


@pytest.mark.slow
@pytest.mark.parametrize(('page', 'words'), FOUND)
def test_a_documented_command_exists_with_its_flags(page, words):
  if words[0] == 'make':
    targets = {word for word in words[1:] if '=' not in word}
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    assert all(re.search(f'^{target}:', makefile, re.M) for target in targets)
    return
  if words[0] == 'pip':
    extras = re.findall(r'\[([\w,]+)\]', ' '.join(words))
    assert {x for each in extras for x in each.split(',')} <= known_extras()
    return
  if words[0].startswith('launch/'):
    script = (ROOT / words[0]).read_text(encoding='utf-8')
    steps = [
      step
      for branch in re.findall(r'^ +([\w |]+)\)', script, re.M)
      for step in branch.split(' | ')
    ]
    assert words[1] in steps
    own = words[2 : words.index('--') if '--' in words else None]
    flags = {a.partition('=')[0] for a in own if a.startswith('--')}
    assert flags <= set(re.findall(r'--[\w-]+', script))
    return
  name, arguments = program(words)
  if name in ('venv', 'build'):
    return
  if '--' in arguments:  # the command that local_cluster starts
    arguments = arguments[: arguments.index('--')]
  settings = [a for a in arguments if a.startswith('--config.')]
  files = [a for a in arguments if a.startswith('--config=')]
  if files and not name.endswith('.py'):
    done = run(name, *files, *settings, '--print_config')
    assert done.returncode == 0, done.stderr
  help_page = run(name, '--help').stdout
  known = set(re.findall(r'^ +--(?:\[no\])?(\w+)', help_page, re.M))
  assert known, help_page  # the program exists
  flags = {
    a[2:].partition('=')[0]
    for a in arguments
    if a.startswith('--') and a not in settings
  }
  assert {
    flag.removeprefix('no') if flag not in known else flag for flag in flags
  } <= known


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files_of_a_clone(page):
  """Also to those that `make docs` fills, such as reference/settings.md."""
  text = (ROOT / page).read_text(encoding='utf-8')
  links = re.findall(r'\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)', text)
  missing = [x for x in links if not (ROOT / page).parent.joinpath(x).exists()]
  assert not missing


@pytest.mark.parametrize('page', PAGES)
def test_the_tests_that_a_page_names_exist(page):
  text = (ROOT / page).read_text(encoding='utf-8')
  names = re.findall(r'`(?:tests/)?(\w+_test)(?:\.py|::\w+)?`', text)
  assert not [x for x in names if not (ROOT / f'tests/{x}.py').exists()]


def test_commands_are_found():
  """The pattern above still finds what the README shows first."""
  assert ('README.md', ('make', 'demo')) in FOUND
  assert sum(page == 'README.md' for page, _ in FOUND) >= 8
