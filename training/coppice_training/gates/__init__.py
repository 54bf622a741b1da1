"""DuoAttention gates: which KV heads need distant tokens (https://arxiv.org/abs/2410.10819)."""
