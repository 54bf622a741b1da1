"""The models as they are trained: a small Llama, a vision encoder before it, the optimiser, the initialisation."""
