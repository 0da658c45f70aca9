"""Trains models: loop, step, losses, optimiser and checkpoints."""
