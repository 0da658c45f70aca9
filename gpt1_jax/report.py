r"""Reports finished runs beside the paper: a page, and its tables as Markdown.

  python -m gpt1_jax.report --runs=runs/mini,runs/rte --output=runs/report
  python -m gpt1_jax.report --runs=runs --output=runs/report

--runs names run folders, or folders that hold runs at any depth, such as those
of `finetune :all` and of a sweep. The page compares them with Tables 2 to 5 and
Figure 2 of the paper. A run's configuration decides its row, not its folder's
name: a run fine-tuned from a pretrained one, with all layers and the auxiliary
LM, is the full model (Tables 2 to 4, first row of Table 5). If several runs fit
a cell, it shows the one with the most finished seeds; ties go to the last, in
the order given and by name within a folder. All runs are listed.

Writes OUTPUT/report.html, which needs no network, OUTPUT/results.md and, as
pictures for other pages, OUTPUT/tasks.svg (scores with and without
pretraining), pretraining.svg (the losses of pretraining) and law.svg (the
scaling law, if there are runs enough to fit it). An unfinished run is shown up
to its last update. Runs and OUTPUT may be in a bucket (gs://BUCKET/...).
"""

from absl import flags

from gpt1_jax import cli, interrupts, storage
from gpt1_jax.errors import UserError

_RUNS = flags.DEFINE_list(
  'runs', None, 'Run folders, or folders that hold runs.', required=True
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder of the report.', required=True
)


def main() -> None:
  # jax and matplotlib are slow to import, and --help needs neither.
  cli.say_first(f'report: {", ".join(_RUNS.value)}')
  with interrupts.importing():
    from gpt1_jax.reporting import figures, page, runs as runs_lib, sections

  output = storage.path(_OUTPUT.value)
  if (output / 'results.json').exists():
    raise UserError(
      f'{output}: holds results.md of finetune; use another --output'
    )
  runs = runs_lib.find(_RUNS.value)
  report = sections.build(runs)
  storage.write_text(output / 'results.md', page.markdown(report))
  storage.write_text(output / 'report.html', page.html(report))
  if drawn := figures.gains_plot(runs):
    storage.write_text(output / 'tasks.svg', drawn)
  if drawn := figures.pretraining_plot(runs):
    storage.write_text(output / 'pretraining.svg', drawn)
  if drawn := sections.law_picture(report):
    storage.write_text(output / 'law.svg', drawn)
  for run in runs:
    print(f'{run.name}: {run.describe()}')
  print(f'{output}/report.html and results.md: {runs_lib.summarize(runs)}')


if __name__ == '__main__':
  cli.run(main)
