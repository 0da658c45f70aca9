"""Two tokenizers small enough to compute their ids by hand."""


class DigitTokenizer:
  """Reads digits: '3 1 4' encodes to [3, 1, 4]."""

  vocab_size = 10

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]


def digits(count: int, first: int = 0) -> str:
  """Returns a text of `count` digits that DigitTokenizer reads, in order."""
  return ' '.join(str((first + i) % 10) for i in range(count))


class WordTokenizer:
  """Numbers words in the order in which it first sees them."""

  vocab_size = 5000

  def __init__(self) -> None:
    self.ids: dict[str, int] = {}

  def encode(self, text: str) -> list[int]:
    return [self.ids.setdefault(word, len(self.ids)) for word in text.split()]
