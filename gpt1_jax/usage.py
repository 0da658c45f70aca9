"""Describes a command's flags: its --help, and those that are missing."""

import sys

from absl import flags


def print_help() -> None:
  """Prints the command's docstring, its flags and those it shares."""
  print((sys.modules['__main__'].__doc__ or '').strip('\n'), end='\n\n')
  for part in (
    flags.FLAGS.main_module_help(),
    flags.FLAGS.module_help('gpt1_jax.cli'),
    flags.FLAGS.module_help('gpt1_jax.cluster'),
  ):
    described = part.split(':', 1)[-1]  # behind the name of the module
    if described.strip():  # some commands have no such flags
      print(described.strip('\n'), end='\n\n', flush=True)


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
