r"""One page of tables and curves from runs, and the same tables as Markdown.

  python -m gpt1_jax.report --runs=runs/mini,runs/rte --output=runs/report

Writes OUTPUT/report.html, which needs no network, and OUTPUT/results.md. A run
that is not finished is shown as far as it went.
"""

import os
import pathlib

from absl import flags

from gpt1_jax import command, page

_RUNS = flags.DEFINE_list('runs', None, 'Folders of runs.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write.', required=True)


def main(argv: list[str]) -> None:
  del argv
  runs = [page.load(name) for name in _RUNS.value]
  output = pathlib.Path(_OUTPUT.value)
  output.mkdir(parents=True, exist_ok=True)
  tables = page.make_tables(runs)
  _write(output / 'results.md', page.markdown(tables))
  _write(output / 'report.html', page.page(tables, runs))
  print(f'{output}/report.html and results.md: {len(runs)} runs')


def _write(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)


if __name__ == '__main__':
  command.run(main)
