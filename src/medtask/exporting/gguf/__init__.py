"""GGUF files: how llama.cpp stores models, and their quantisation."""
