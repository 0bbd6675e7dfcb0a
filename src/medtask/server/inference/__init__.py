"""Answers of loaded models to the requests of many clients."""
