"""Turns text into batches of token windows. Nothing here imports jax."""
