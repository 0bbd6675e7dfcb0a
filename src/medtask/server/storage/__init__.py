"""Data sets, tasks, models and runs: rows in the database, and files in the data folder."""
