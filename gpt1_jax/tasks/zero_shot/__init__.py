"""Zero-shot scores (P §5): log-probabilities, decisions, the suite."""
