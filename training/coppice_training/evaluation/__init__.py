"""Evaluation sets from a seed, dense reference scores with transformers, and intervals."""
