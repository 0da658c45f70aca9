"""Defines the exceptions that end a command with one line.

Any module may raise them; `cli.run` prints the line and exits.
"""


class UserError(Exception):
  """States in one line what is wrong, where, and what to do about it."""


class Stopped(BaseException):
  """Says that a signal ended the command and that it can be run again.

  Like KeyboardInterrupt, it passes through `except Exception`.
  """
