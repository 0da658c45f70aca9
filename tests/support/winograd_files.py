"""Winograd schemas in the published formats; the sentences are our own."""

import pathlib

BLOCKS = """\
The baker thanked the miller because he had brought flour.
he
The baker,the miller
the miller

The dog chased the cat until it was tired, and it slept.
it
The dog,the cat
The dog
\x20
His aunt told Ann that he said so, and he knew.
he
His aunt, Ann
ANN


"""
XML = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection SYSTEM "collection.dtd">
<collection>{}</collection>
"""
SCHEMA = """
<schema>
  <text>
    <txt1>The lid did not fit
      the pot because </txt1><pron> it </pron>
    <txt2>{rest}</txt2>
  </text>
  <quote><quote1>because</quote1><pron>nothing</pron><quote2>x</quote2></quote>
  <answers><answer> The lid </answer><answer>The pot</answer></answers>
  <correctAnswer> {letter} </correctAnswer>
  <source>a test</source>
</schema>
"""


def write(folder: pathlib.Path, name: str, text: str) -> str:
  """Writes a file under a folder and returns the path of the folder."""
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding='utf-8')
  return str(folder)
