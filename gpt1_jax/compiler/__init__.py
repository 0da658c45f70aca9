"""What a compiled program says: memory, cost, fit."""
