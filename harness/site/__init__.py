"""Static pages of a public leaderboard, made from accepted records."""
