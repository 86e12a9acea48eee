"""Verdicts: from the tables' counts to what a leaderboard may say. No torch."""
