"""The owner's two acts: a model is marked and its key kept, and a suspect is asked that key."""
