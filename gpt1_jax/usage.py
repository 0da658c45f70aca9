"""Describes a command's flags: its --help, and those that are missing."""

import sys

from absl import flags


def print_help() -> None:
  """Prints the command's docstring, its flags and those of `cli`."""
  text = sys.modules['__main__'].__doc__ or ''
  own = flags.FLAGS.main_module_help()
  shared = flags.FLAGS.module_help('gpt1_jax.cli')
  # The help of a module begins with a line that names its file.
  for part in (text, own.split(':', 1)[-1], shared.split(':', 1)[-1]):
    if part.strip():  # some commands have no flags of their own
      print(part.strip('\n'), end='\n\n', flush=True)


def missing() -> str:
  """Returns the error line for required flags without a value, or ''.

  Flags are required with absl's `required=True`, our only use of validators.
  """
  return '; '.join(
    missing_flag(name)
    for name in flags.FLAGS
    if flags.FLAGS[name].validators and flags.FLAGS[name].value is None
  )


def missing_flag(name: str) -> str:
  """Returns the error line for a flag that has no value."""
  meaning = str(flags.FLAGS[name].help).rstrip('.')
  return f'--{name} is missing ({meaning})'
