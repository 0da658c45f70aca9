"""Defines the exceptions that end a command with one line.

Any module may raise them; `cli.run` prints the line and exits.
"""

import errno
import re

# Error numbers of a full disk, a full quota and the largest size of a file.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The same in the messages of libraries that raise errors of other types.
SAYS_DISK_FULL = re.compile('No space left|quota|File too large')

# TensorStore reports this as a lack of memory.
SAYS_MANY_FILES = 'Too many open files'
MANY_FILES = f'{SAYS_MANY_FILES}: raise the limit with ulimit -n'

# Errors that a path given by the user can cause.
_GIVEN = (
  errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
  errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS,
)  # fmt: skip


class UserError(Exception):
  """A user's mistake: one line says what is wrong, where, and what to do.

  Attributes:
    exit_code: 2.
  """

  exit_code = 2


class RunError(UserError):
  """A failure of a command that was called correctly, in one line.

  Examples: a full disk, a lost host, a loss that is not finite.
  """

  exit_code = 1


class Stopped(BaseException):
  """Raised when a signal ends the command, which can be run again.

  Like KeyboardInterrupt, it passes through `except Exception`.
  """


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message; if empty, its type."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def describe(error: UserError | OSError) -> tuple[str, int]:
  """Returns the line to print for an error, and the exit code."""
  if isinstance(error, UserError):
    return str(error), error.exit_code
  if error.errno is None:  # raised by a library, such as gcsfs
    return ' '.join(str(error).split()), RunError.exit_code
  line = f'{error.strerror}: {error.filename or "(no file)"}'
  if error.errno == errno.EEXIST:  # from mkdir, which accepts a folder
    line = f'{error.filename}: is a file, where a folder is needed'
  if error.errno in _GIVEN:
    return line, UserError.exit_code
  if error.errno in DISK_FULL:
    line += '; free some disk space and run the command again'
  elif error.errno == errno.EMFILE:
    line = MANY_FILES
  return line, RunError.exit_code
