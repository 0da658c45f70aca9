"""Fine-tuning from a configuration to scores: seeds, tasks, files."""
