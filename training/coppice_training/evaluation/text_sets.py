"""Evaluation sets of the text models: recall, third questions, long recall, copies, and passages for perplexity.

Keys and numbers are the held-out ones, and the book should be one that training skipped. recall, turns and copy are
drawn from one stream in this order: seed 101 and the same book make the sets in the repository's `eval` folder again.
"""

from itertools import pairwise
from pathlib import Path
from random import Random

from ..chat import text_prompt
from ..data.copying import code, replace_request, replaceable_words, snippet
from ..data.facts import draw_facts
from ..data.recall import FACTS_BY_LENGTH, document
from ..data.source import Source
from ..data.vocabulary import COPY_REQUESTS, INTRODUCTIONS
from .jsonl import Item, write_items

_FACTS = FACTS_BY_LENGTH | {256: (4, 8)}
_PASSAGE_CHARS = 9000
_PASSAGE_TOKENS = 2047
"""With the token before it 2,048."""


def write_text_sets(source: Source, folder: Path, seed: int, *, scale: float = 1.0) -> dict[str, int]:
    """Writes all sets under `folder`; returns items by set. `scale` shrinks them all, for smoke runs."""
    rng = Random(seed)

    def count(whole: int) -> int:
        return max(1, round(whole * scale))

    sets = {
        "recall/recall.jsonl": [
            recall_item(source, rng, index, bucket) for bucket in (256, 512, 1024, 2048) for index in range(count(50))
        ],
        "recall/turns.jsonl": [
            recall_item(source, rng, index, bucket, num_turns=3)
            for bucket in (512, 1024, 2048)
            for index in range(count(20))
        ],
        "copy/copy.jsonl": [copy_item(source, rng, index) for index in range(count(120))],
        "books/books.jsonl": [passage_item(source, index, count(24)) for index in range(count(24))],
    }
    long_rng = Random(seed)
    sets["recall/long.jsonl"] = [
        recall_item(source, long_rng, index, bucket) for bucket in (4096, 8192) for index in range(count(40))
    ]
    for name, items in sets.items():
        write_items(folder / name, items)
    return {name: len(items) for name, items in sets.items()}


def prompt_tokens(source: Source, messages: list[dict[str, str]]) -> int:
    """Tokens of the prompt, its first token and the opening of the reply included."""
    return source.encoder.count(text_prompt(messages))


def recall_item(source: Source, rng: Random, index: int, bucket: int, num_turns: int = 1) -> Item:
    """A question about one of many facts, with a prompt just under `bucket` tokens; earlier turns are answered."""
    fewest, most = _FACTS[bucket]
    while True:
        facts = draw_facts(rng, rng.randint(fewest, most), source.held_out)
        budget = bucket - 50 - 34 * (num_turns - 1)
        text = "".join(segment.text for segment in document(source, rng, facts, budget))
        asked = rng.sample(facts, num_turns)
        opening = f"{rng.choice(INTRODUCTIONS)}\n\n{text}\n\n{asked[0].question(rng)}"
        messages = [{"role": "user", "content": opening}]
        for known, following in pairwise(asked):
            messages.append({"role": "assistant", "content": known.value})
            messages.append({"role": "user", "content": following.question(rng)})
        num_tokens = prompt_tokens(source, messages)
        if bucket * 0.88 < num_tokens <= bucket - 12:
            break
    fact = asked[-1]
    return {
        "id": f"{'recall' if num_turns == 1 else 'turns'}-{bucket}-{index}",
        "task": "recall",
        "bucket": bucket,
        "context_tokens": num_tokens,
        "turns": num_turns,
        "n_facts": len(facts),
        "depth": round(text.index(fact.statement) / len(text), 3),
        "kind": "number" if fact.value.isdigit() else "word",
        "messages": messages,
        "answer": fact.value,
        "needle": fact.statement,
        "max_new_tokens": 12,
    }


def copy_item(source: Source, rng: Random, index: int) -> Item:
    """Of four items two are prose and two code; every other one replaces a word."""
    is_code, replaces = index % 4 > 1, index % 2 == 1
    num_tokens = rng.choice([40, 80, 120, 160])
    while True:
        text = code(source, rng, num_tokens) if is_code else _prose(source, rng, num_tokens)
        words = replaceable_words(text)
        if words:
            break
    request, result = replace_request(rng, text, words) if replaces else (rng.choice(COPY_REQUESTS), text)
    messages = [{"role": "user", "content": f"{request}\n\n{text}"}]
    return {
        "id": f"copy-{index}",
        "task": "edit" if replaces else "copy",
        "content": "code" if is_code else "prose",
        "context_tokens": prompt_tokens(source, messages),
        "messages": messages,
        "answer": result,
        "max_new_tokens": source.encoder.count(result) + 16,
    }


def _prose(source: Source, rng: Random, num_tokens: int) -> str:
    while True:
        text = snippet(source, rng, num_tokens)
        if "def " not in text and " = " not in text:
            return text


def passage_item(source: Source, index: int, count: int) -> Item:
    """One of `count` passages at equal distances in the first book, each from the start of a line."""
    text, encoder = source.books.texts[0], source.encoder
    start = text.index("\n", max(0, len(text) - _PASSAGE_CHARS) * index // count) + 1
    ids = encoder.ids(text[start : start + _PASSAGE_CHARS])[:_PASSAGE_TOKENS]
    passage = encoder.tokenizer.decode(list(ids), skip_special_tokens=False)
    book = source.books.names[0].rsplit(".", 1)[0]
    return {"id": f"books-{index}", "task": "perplexity", "text": passage, "book": book}
