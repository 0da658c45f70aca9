"""Defines the exceptions that end a command with one line.

Any module may raise them; `cli.run` prints the line and exits.
"""

import errno

# Error numbers of a full disk, a full quota and the largest size of a file.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
  """States in one line what is wrong, where, and what to do about it.

  Attributes:
    exit_code: 2: the user gave something wrong.
  """

  exit_code = 2


class RunError(UserError):
  """States in one line what stopped a command that was called correctly.

  Such as a full disk, a lost host, or a loss that is not finite.
  """

  exit_code = 1


class Stopped(BaseException):
  """Says that a signal ended the command and that it can be run again.

  Like KeyboardInterrupt, it passes through `except Exception`.
  """
