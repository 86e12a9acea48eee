"""Looking at a plan and a results folder: status, why a stage runs, what is garbage, one cell as a folder."""
