"""The plan of a run: what was asked for, which plugins answer to it, and the stages that follow. No torch."""
