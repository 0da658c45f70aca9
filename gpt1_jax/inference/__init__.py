"""Loads a trained model for use from Python: `gpt1_jax.load`."""
