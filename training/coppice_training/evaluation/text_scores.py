"""Dense reference scores of a text model with transformers: greedy, fp32, every generated text kept."""

import difflib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from ..errors import TrainingError
from .jsonl import Item, read_items
from .scores import Tally

SETS = {
    "recall": "recall/recall.jsonl",
    "turns": "recall/turns.jsonl",
    "long": "recall/long.jsonl",
    "copy": "copy/copy.jsonl",
    "books": "books/books.jsonl",
}
_PASSAGE_TOKENS = 2047

Log = Callable[[str], None]

logging.disable_progress_bar()


class TextScorer:
    """A model with its tokenizer, as transformers loads them."""

    def __init__(self, model: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(str(model))
        self.model = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()

    @torch.no_grad()
    def reply(self, item: Item) -> str:
        """The greedy reply; raises TrainingError if the prompt has other tokens than the set says."""
        prompt = self.tokenizer.apply_chat_template(item["messages"], tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        if ids.shape[1] != item["context_tokens"]:
            expected = f"expected a prompt of {item['context_tokens']} tokens"
            raise TrainingError(f"{item['id']}: {expected}, got {ids.shape[1]}: is the set made for this tokenizer?")
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=item["max_new_tokens"], do_sample=False
        )
        return self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)

    @torch.no_grad()
    def passage_loss(self, item: Item) -> tuple[float, int, int]:
        """Sum of the negative log probabilities (nats) of a passage's tokens, their number, and its bytes."""
        ids = self.tokenizer(item["text"], return_tensors="pt", add_special_tokens=False).input_ids[:, :_PASSAGE_TOKENS]
        ids = torch.cat((torch.zeros(1, 1, dtype=torch.long), ids), 1)
        logits = self.model(ids).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        return loss, ids.shape[1] - 1, len(item["text"].encode())


def score_text(
    model: Path, evals: Path, sets: list[str], limit: int | None = None, log: Log = print, every: int = 1
) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores by set, and generated texts by item id. Of each set, every `every`-th item, `limit` at most."""
    scorer = TextScorer(model)
    scores: dict[str, Any] = {}
    outputs: dict[str, str] = {}
    for name in sets:
        items = read_items(evals / SETS[name])[::every][:limit]
        if name == "books":
            scores[name] = _perplexity(scorer, items)
            log(f"books: {scores[name]}")
            continue
        tally = Tally()
        for item in items:
            reply = outputs[item["id"]] = scorer.reply(item)
            if name == "copy":
                ratio = difflib.SequenceMatcher(None, reply, item["answer"], autojunk=False).ratio()
                tally.add(_copy_groups(item), reply == item["answer"], ratio)
            else:
                tally.add([str(item["bucket"]), "all", item["kind"]], reply.strip() == item["answer"])
        scores[name] = tally.with_similarity() if name == "copy" else tally.shares()
        for line in tally.lines():
            log(f"{name} {line}")
    return scores, outputs


def _copy_groups(item: Item) -> list[str]:
    return [f"{item['task']}/{item['content']}", item["task"], "all"]


def _perplexity(scorer: TextScorer, items: list[Item]) -> dict[str, float]:
    losses, tokens, sizes = zip(*_losses(scorer, items), strict=True)
    loss, count = sum(losses), sum(tokens)
    return {
        "perplexity": round(math.exp(loss / count), 4),
        "nll_per_token": round(loss / count, 5),
        "bits_per_byte": round(loss / math.log(2) / sum(sizes), 4),
        "tokens": count,
    }


def _losses(scorer: TextScorer, items: list[Item]) -> Iterator[tuple[float, int, int]]:
    return (scorer.passage_loss(item) for item in items)
