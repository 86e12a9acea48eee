"""Running a plan: stages by executors, and every outcome as rows."""
