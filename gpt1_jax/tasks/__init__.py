"""Fine-tunes and scores tasks, and scores them without fine-tuning."""
