"""How often a draft model's greedy token is the target's, teacher-forced: what speculative decoding can hope for."""

from pathlib import Path

import torch

from ..chat import TURN_END
from .jsonl import read_items
from .scores import read_reference
from .text_scores import SETS, TextScorer

_BOOK_TOKENS = 1024
_EVERY = {"recall": 4, "copy": 3, "books": 6}
"""Every n-th item of a set: enough for shares to a percent."""


@torch.no_grad()
def draft_agreement(target: Path, draft: Path, evals: Path, reference: Path) -> dict[str, tuple[float, int]]:
    """Set -> share of positions with the same greedy token, number of positions: in the replies that `reference` holds
    of the target, and in book passages."""
    replies = read_reference(reference)["outputs"]
    first, second = TextScorer(target), TextScorer(draft)
    result = {}
    for name, every in _EVERY.items():
        same, count = 0, 0
        for item in read_items(evals / SETS[name])[::every]:
            start = 1
            if name == "books":
                text = item["text"]
            else:
                prompt = first.tokenizer.apply_chat_template(
                    item["messages"], tokenize=False, add_generation_prompt=True
                )
                start = len(first.tokenizer(prompt, add_special_tokens=False).input_ids)
                text = prompt + replies[item["id"]] + TURN_END
            ids = first.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            if name == "books":
                ids = ids[:, :_BOOK_TOKENS]
            one, other = (scorer.model(ids).logits[0, start - 1 : -1].argmax(-1) for scorer in (first, second))
            same += int((one == other).sum())
            count += len(one)
        result[name] = (round(same / count, 4), count)
    return result
