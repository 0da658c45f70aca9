"""Defines the exception for errors that a user can fix.

Any module may raise it; `cli.run` prints it as one line and exits with code 1.
"""


class UserError(Exception):
  """States in one line what is wrong, where, and what to do about it."""
