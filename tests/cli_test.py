"""Reads flags and configurations; every mistake is one line."""

import errno
import os
import subprocess
import sys

import pytest

import gpt1_jax
from gpt1_jax import cli, config, errors, storage
from tests.support import commands
from tests.support.refusals import assert_refused

TINY = f'{commands.ROOT}/configs/pretrain.py:tiny'
MISTAKES = [
  (['--nosuch=1'], "Unknown command line flag 'nosuch'"),
  (['runs/x'], "unexpected argument 'runs/x'"),
  (['--config=configs/pretrain.py:small'], "'small' is not a preset"),
  (['--config=nowhere.py'], 'no such file: nowhere.py; see --help'),
  ([f'--config={TINY}'], 'config.data.path is not set'),
  ([f'--config={TINY}', '--config.data.path=x'], '--workdir is missing'),
]
SEVERAL = [
  *(f'--config={TINY}', '--config.model.n_layer=2.5'),
  *('--config.model.n_layr=3', '--config.optim.peak_lr=fast'),
  *('--config.optim.b1=1.5', '--config.train.seed=-1', '--config.mesh.data=0'),
]


def test_all_mistakes_are_reported_together(tmp_path):
  done = commands.run('pretrain', *SEVERAL, f'--workdir={tmp_path}/run')
  assert (done.returncode, done.stdout) == (2, '')
  assert not (tmp_path / 'run').exists()
  assert done.stderr.splitlines() == [
    'error: 7 invalid settings:',
    '  config.model.n_layer is 2.5: must be an integer',
    '  config.model.n_layr: no such key; did you mean n_layer?',
    "  config.optim.peak_lr is 'fast': must be a number",
    '  config.optim.b1 is 1.5: must be at most 0.999999',
    '  config.train.seed is -1: must be at least 0',
    '  config.data.path is not set; give --config.data.path=...',
    '  config.mesh: 0x1x1 (data x fsdp x tensor): sizes must be positive; one '
    'may be -1',
  ]


@pytest.mark.parametrize(('flags', 'line'), MISTAKES)
def test_a_wrong_command_line_is_one_line(flags, line):
  done = commands.run('pretrain', *flags)
  assert line in commands.error_of(done)
  assert (done.stdout, done.stderr.count('\n')) == ('', 1)


@pytest.mark.parametrize(
  ('program', 'line'),
  [
    (
      'serve',
      '--workdir is missing (Run directory, or a folder of weights)',
    ),
    (
      'predict',
      '--workdir is missing (The fine-tuned run); '
      '--input is missing (The texts: .jsonl, .csv or .tsv)',
    ),
    (
      'launch/sweep.py',
      '--output is missing (Folder to write); '
      '--init_from is missing (Pretrained run); '
      '--tasks is missing (Task names, or all); '
      '--data_path is missing (Value of config.data.path)',
    ),
  ],
)
def test_missing_flags_are_named_together_in_one_line(program, line):
  done = commands.run(program)
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr == f'error: {line}\n'


@pytest.mark.parametrize(
  ('words', 'start'),
  [
    (('--nosuch=5',), "Unknown command line flag 'nosuch'"),
    (('--workers=x', '--input=a', '--output=b'), 'flag --workers=x: invalid'),
    (('--input=a', '--output'), 'Missing value for flag --output'),
  ],
)
def test_a_wrong_flag_is_named_before_those_that_are_missing(words, start):
  assert commands.fail('prepare', *words).startswith(f'error: {start}')


def test_version():
  out = commands.succeed('pretrain', '--version')
  assert out == f'gpt1_jax {gpt1_jax.__version__}\n'


def test_a_run_directory_that_is_a_file_is_refused(tmp_path):
  file = tmp_path / 'README.md'
  file.touch()
  error = commands.fail(
    'pretrain', f'--config={TINY}', f'--workdir={file}', '--config.data.path=x'
  )
  assert error == f'error: {file}: is a file, where a folder is needed'


def test_a_line_break_in_a_name_stays_in_the_line(tmp_path):
  name = tmp_path / 'a\nb\x1b[1m'
  line = commands.fail('evaluate', f'--workdir={name}')
  assert line.startswith(f'error: {tmp_path}/a\\nb\\x1b[1m: ')
  both = (
    '--config.init_from=x',
    '--config.like=y\nz',
    '--config.data.path=d',
  )
  done = commands.run(
    'finetune', '--config=configs/finetune.py:rte', *both, '--workdir=w'
  )
  assert "init_from is 'x' and like is 'y\\nz'" in commands.error_of(done)


def test_a_configuration_that_does_not_run_is_one_line(tmp_path):
  broken = tmp_path / 'broken.py'
  broken.write_text('def get_config():\n  return undefined\n')
  line = commands.fail('pretrain', f'--config={broken}')
  assert 'broken.py does not run (NameError: ' in line


def test_print_config_prints_flags_that_make_it_again():
  print_config = (f'--config={TINY}', '--print_config')
  done = commands.run('pretrain', *print_config, '--config.optim.b1=0.5')
  assert (done.returncode, done.stderr) == (0, '')
  lines = done.stdout.splitlines()
  assert '--config.optim.b1=0.5' in lines
  assert '--config.data.path is not set' in lines
  again = [x for x in lines if x.startswith('--config.') and '=' in x]
  assert commands.succeed('pretrain', *print_config, *again) == done.stdout


def test_print_config_refuses_what_the_command_would_refuse():
  line = commands.fail('pretrain', '--print_config', '--config.optim.eps=x')
  assert line == "error: config.optim.eps is 'x': must be a number"
  line = commands.fail('finetune', '--print_config', '--config.head.lm_cof=1')
  assert 'config.head.lm_cof: no such key; did you mean lm_coef?' in line


@pytest.mark.parametrize(
  ('command', 'other'), [('pretrain', 'finetune'), ('finetune', 'pretrain')]
)
def test_a_configuration_of_another_command_is_one_line(command, other):
  flags = (f'--config=configs/{other}.py', '--workdir=runs/x')
  line = commands.fail(command, *flags)
  assert line == f'error: --config: this configuration is for {other}'


def test_values_keep_their_types(monkeypatch):
  settings = [('data.path', '123'), ('data.lengths', '(8, 16)')]
  monkeypatch.setattr(cli, '_settings', [*settings, ('init_from', 'x')])
  values = cli.config_values(f'{commands.ROOT}/configs/finetune.py:rte')
  assert values['data']['path'] == '123'
  assert values['init_from'] == 'x'
  parsed = config.parse(config.FinetuneConfig, values)
  assert parsed.data.lengths == (8, 16)
  assert config.as_dict(parsed)['train'] == values['train']


def test_settings_of_a_command_without_a_configuration_are_refused():
  error = commands.fail('generate', '--workdir=x', '--config.model.n_layer=1')
  assert error.startswith("error: Unknown command line flag 'config.model")


@pytest.mark.parametrize(
  ('name', 'shown', 'hidden'),
  [
    ('pretrain', ('workdir', 'multihost', 'stage_to'), ('verbosity',)),
    ('report', ('runs', 'output'), ('multihost', 'stage_to', 'verbosity')),
  ],
)
def test_help_shows_the_flags_that_have_an_effect(name, shown, hidden):
  """--verbosity is absl's."""
  done = commands.run(name, '--help')
  assert done.stderr == ''
  assert all(f'  --{flag}: ' in done.stdout for flag in shown)
  assert not any(f'--{flag}' in done.stdout for flag in hidden)


def test_links_that_form_a_loop_are_refused(tmp_path):
  (tmp_path / 'loop').symlink_to('loop')
  for name in (tmp_path / 'loop', tmp_path / 'loop' / 'inside'):
    words = ('--input=builtin:python-reference', f'--output={name}')
    line = f'error: {name}: its symbolic links form a loop'
    assert commands.fail('prepare', *words) == line


def _on_a_full_disk(redirection, *words):
  """Runs a command whose stdout (>) or stderr (2>) may not grow."""
  line = f'ulimit -f 0; exec "$@" {redirection}'
  words = ('sh', '-c', line, 'sh', sys.executable, '-m', *words)
  return subprocess.run(
    words, cwd=commands.ROOT, capture_output=True, text=True
  )


@pytest.mark.parametrize(
  ('words', 'name'),
  [('--help', 'report'), (f'--config={TINY} --print_config', 'finetune')],
)
def test_a_full_disk_under_stdout_is_named(tmp_path, words, name):
  to = f'> {tmp_path}/out'
  done = _on_a_full_disk(to, f'gpt1_jax.{name}', *words.split())
  assert done.stderr.startswith('error: File too large: standard output; free')
  assert (done.returncode, done.stderr.count('\n')) == (1, 1)


def test_a_full_disk_under_stderr_keeps_the_exit_code(tmp_path):
  to, words = f'2> {tmp_path}/err', ('--runs=/nowhere', '--output=x')
  done = _on_a_full_disk(to, 'gpt1_jax.report', *words)
  assert (done.returncode, done.stdout, done.stderr) == (2, '', '')


@pytest.mark.parametrize('flag', ['runs', 'output'])
def test_an_empty_flag_does_not_mean_the_working_directory(flag):
  words = {'runs': 'models', 'output': 'x', flag: ''}
  line = commands.fail('report', *(f'--{k}={v}' for k, v in words.items()))
  assert line == f'error: --{flag} is empty; see --help'


def test_text_is_utf8_in_every_locale():
  words = ('--runs=models/é', '--output=x')
  done = commands.run('report', *words, LC_ALL='C', PYTHONUTF8='0')
  line = commands.error_of(done)
  assert line == commands.fail('report', *words)
  assert 'models/é' in line


def test_a_name_that_is_not_utf_8_is_refused(tmp_path, monkeypatch):
  words = ('--runs=x', '--output=run\udcff')
  line = 'error: --output=run\\xff: not UTF-8; rename it, or give another'
  assert commands.fail('report', *words) == line
  (tmp_path / 'here\udcff').mkdir()
  monkeypatch.chdir(tmp_path / 'here\udcff')
  with assert_refused('here\\xff/run: not UTF-8'):
    storage.writable('run')


@pytest.mark.parametrize(
  ('number', 'words', 'code'),
  [
    (errno.EMFILE, 'raise the limit with ulimit -n', 1),
    (errno.ENOSPC, 'x.bin; free some disk space and run', 1),
    (errno.ENOENT, 'No such file or directory: x.bin', 2),
    (errno.EIO, 'Input/output error: x.bin', 1),
  ],
)
def test_an_error_of_the_system_tells_what_to_do(number, words, code):
  line, found = errors.describe(OSError(number, os.strerror(number), 'x.bin'))
  assert words in line
  assert found == code


def test_an_error_without_a_number_is_printed_as_it_is():
  error = OSError('Forbidden: b/bucket/o\nno permission')
  assert errors.describe(error) == ('Forbidden: b/bucket/o no permission', 1)


@pytest.mark.parametrize(
  'words', ['pretrain --print_config', 'evaluate --help']
)
def test_a_reader_that_leaves_is_no_error(words):
  line = f'{sys.executable} -m gpt1_jax.{words} | true; echo ${{PIPESTATUS[0]}}'
  done = subprocess.run(
    ['bash', '-c', line], cwd=commands.ROOT, capture_output=True, text=True
  )
  assert (done.stdout, done.stderr) == ('141\n', '')
