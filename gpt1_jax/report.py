r"""One page of tables and curves from runs, and the same tables as Markdown.

  python -m gpt1_jax.report --runs=runs/mini,runs/rte --output=runs/report
  python -m gpt1_jax.report --runs=runs --output=runs/report

A folder is a run, a run of several seeds, or holds such ones at any depth: what
`finetune :all` and a sweep leave. The page sets them beside Tables 2 to 5 and
Figure 2 of the paper. A run belongs to a row by its configuration, not by the
name of its folder: fine-tuned from a pretrained run with all its layers and the
auxiliary LM it is a full model (Tables 2 to 4, first row of Table 5). Of
several for one cell that with the most finished seeds counts, of equals the
last, folders taken in the order given and by name within a folder; all are
listed.

Writes OUTPUT/report.html, which needs no network, and OUTPUT/results.md. A run
that is not finished is shown as far as it went. Runs and OUTPUT may lie in a
bucket (gs://BUCKET/...).
"""

from absl import flags

from gpt1_jax import cli, storage
from gpt1_jax.reporting import page, runs as runs_lib, sections

_RUNS = flags.DEFINE_list(
  'runs', None, 'Folders of runs, or that hold runs.', required=True
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write.', required=True)


def main(argv: list[str]) -> None:
  del argv
  runs = runs_lib.find(_RUNS.value)
  output = storage.path(_OUTPUT.value)
  parts = (sections.facts(runs), sections.NOTES, sections.sections(runs))
  storage.write_text(output / 'results.md', page.markdown(*parts))
  storage.write_text(output / 'report.html', page.page(*parts))
  for found in runs:
    print(f'{found.name}: {runs_lib.described(found)}')
  print(f'{output}/report.html and results.md: {runs_lib.counts(runs)}')


if __name__ == '__main__':
  cli.run(main)
