"""The one exception for mistakes a user can mend.

Any room may raise it; `command.run` prints it as one line and exits with 1.
"""


class UserError(Exception):
  """What is wrong, where, and what to do about it, in one line."""
