"""The one loop and what it needs: step, loss, optimiser, checkpoints."""
