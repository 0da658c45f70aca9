"""Constants that all tests share."""

# Makes XLA compile in half the time, to slower machine code. Good for programs
# that run a few steps; users run with XLA's default.
QUICKLY_COMPILED = '--xla_backend_optimization_level=0'
