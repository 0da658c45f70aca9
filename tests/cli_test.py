"""Reads flags and configurations; every mistake is one line."""

import pathlib
import subprocess
import sys

import pytest

from gpt1_jax import cli, config

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = f'{ROOT}/configs/pretrain.py:tiny'


def command(*flags, name='pretrain'):
  """Runs a command and returns (exit code, stdout, stderr)."""
  done = subprocess.run(
    [sys.executable, '-m', f'gpt1_jax.{name}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  return done.returncode, done.stdout, done.stderr


def test_all_mistakes_are_reported_together(tmp_path):
  code, out, err = command(
    f'--config={TINY}',
    f'--workdir={tmp_path / "run"}',
    '--config.model.n_layer=2.5',
    '--config.model.n_layr=3',
    '--config.optim.peak_lr=fast',
    '--config.optim.b1=1.5',
    '--config.train.seed=-1',
    '--config.mesh.data=0',
  )
  assert (code, out) == (1, '')
  assert err.splitlines() == [
    'error: 7 invalid settings:',
    '  config.model.n_layer is 2.5: must be an integer',
    '  config.model.n_layr: no such key; did you mean n_layer?',
    "  config.optim.peak_lr is 'fast': must be a number",
    '  config.optim.b1 is 1.5: must be below 1.0',
    '  config.train.seed is -1: must be at least 0',
    '  config.data.path is not set; give --config.data.path=...',
    '  config.mesh: 0x1x1 (data x fsdp x tensor): sizes must be positive; one '
    'may be -1',
  ]
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('flags', 'line'),
  [
    (['--nosuch=1'], "Unknown command line flag 'nosuch'"),
    (['runs/x'], "unexpected argument 'runs/x'"),
    (['--config=configs/pretrain.py:small'], "'small' is no preset"),
    (['--config=nowhere.py'], 'no such file: nowhere.py'),
    (['--config=configs/pretrain.py:tiny'], 'config.data.path is not set'),
    (
      ['--config=configs/pretrain.py:tiny', '--config.data.path=x'],
      '--workdir is missing',
    ),
  ],
)
def test_a_wrong_command_line_is_one_line(flags, line):
  code, out, err = command(*flags)
  assert (code, out) == (1, '')
  assert err.startswith('error: ')
  assert line in err
  assert err.count('\n') == 1


def test_print_config_prints_flags_that_make_it_again():
  code, out, err = command(
    f'--config={TINY}', '--print_config', '--config.optim.peak_lr=1e-4'
  )
  assert (code, err) == (0, '')
  lines = out.splitlines()
  assert '--config.optim.peak_lr=0.0001' in lines
  assert '--config.data.path is not set' in lines
  again = [
    line for line in lines if line.startswith('--config.') and '=' in line
  ]
  assert command(f'--config={TINY}', '--print_config', *again)[1] == out


def test_values_keep_their_types(monkeypatch):
  monkeypatch.setattr(
    cli,
    '_settings',
    [('data.path', '123'), ('data.lengths', '(8, 16)'), ('init_from', 'x')],
  )
  values = cli.config_values(f'{ROOT}/configs/finetune.py:rte')
  assert values['data']['path'] == '123'
  assert values['init_from'] == 'x'
  parsed = config.parse(config.FinetuneConfig, values)
  assert parsed.data.lengths == (8, 16)
  assert config.as_dict(parsed)['train'] == values['train']


def test_settings_of_a_command_without_a_configuration_are_refused():
  code, _, err = command(
    '--workdir=x', '--config.model.n_layer=1', name='generate'
  )
  assert code == 1
  assert err.startswith("error: Unknown command line flag 'config.model")


def test_a_configuration_file_that_raises_is_one_line(tmp_path):
  file = tmp_path / 'broken.py'
  file.write_text('def get_config():\n  return undefined\n')
  code, out, err = command(f'--config={file}', f'--workdir={tmp_path / "run"}')
  assert (code, out) == (1, '')
  assert 'broken.py does not run (NameError: ' in err
  assert err.count('\n') == 1
