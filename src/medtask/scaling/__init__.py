"""Answers on more than one process or machine: shards and Slurm, Spark, Ray."""
