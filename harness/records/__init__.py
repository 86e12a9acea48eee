"""Records, frozen results folders: made, checked, replayed."""
