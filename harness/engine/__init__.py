"""The training engine: batches, steps, recorded GPU graphs, and what is remembered of answers."""
