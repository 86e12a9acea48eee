"""From the tables to verdicts, comparisons and ranks. No torch."""
