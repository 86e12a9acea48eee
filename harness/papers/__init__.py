"""Papers as experiments: what they say, and our numbers beside it."""
