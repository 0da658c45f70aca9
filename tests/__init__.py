"""Constants that all tests share."""

# Of XLA, for programs that run a few steps: the same program in machine code
# that is made in half the time. What a user runs has XLA's own setting.
QUICKLY_COMPILED = '--xla_backend_optimization_level=0'
