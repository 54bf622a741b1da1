"""Training of coppice's demo models: data, tokenizer, models, curriculum, export, evaluation sets, scores, gates."""
