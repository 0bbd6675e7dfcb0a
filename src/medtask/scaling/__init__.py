"""Answers on more than one process or machine: Spark and Ray."""
