"""Verdicts, comparisons and ranks from the tables. No torch."""
