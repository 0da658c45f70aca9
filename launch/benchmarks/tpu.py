"""The step compiled for a slice of TPUs, or for this machine's devices."""

from typing import Any

from benchmarks import process, shapes


def prepare(
  settings: dict[str, Any],
) -> tuple[process.Measure, dict[str, Any]]:
  import jax

  from gpt1_jax import errors
  from gpt1_jax.compiler import compiled
  from gpt1_jax.train import chips

  jax.config.update('jax_platforms', 'cpu')  # leaves a TPU that is here alone
  try:
    topology = chips.topology(settings['topology'], 1)
  except errors.UserError as error:
    raise process.MissingError(str(error)) from None
  count = len(topology.devices)
  config = shapes.config(
    {**settings, 'batch_size': settings['per_chip'] * count}
  )

  def measure() -> dict[str, Any]:
    figures, _ = compiled.compile_config(
      config, topology, settings['vocab_size'], num_steps=1
    )
    return figures.to_json() | {'hbm_bytes': figures.hbm_bytes}

  return measure, {'jax': jax.__version__, 'devices': count}


if __name__ == '__main__':
  process.serve(prepare)
