"""Filler text: the books in a folder, cleaned, or sentences from a small grammar where there are none."""

import random
import re
from collections.abc import Collection
from pathlib import Path

from ..errors import TrainingError

_HEADER_END = "-------"
_PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2014: "--", 0x2013: "-", 0x2026: "...", 0xA0: " "}
_SENTENCE_CHARS = range(25, 141)


class Books:
    """Texts, and those of their sentences that can stand alone between facts."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.names = list(texts)
        self.texts = list(texts.values())
        self.sentences = [sentence for text in self.texts for sentence in _plain_sentences(text)]
        if not self.sentences:
            raise TrainingError("expected books with sentences of 25 to 140 characters without digits, got none")
        self._weights = [len(text) for text in self.texts]

    def chunk(self, rng: random.Random, num_chars: int) -> str:
        """Up to `num_chars` characters from a random word on; long books are drawn more often."""
        text = rng.choices(self.texts, self._weights)[0]
        start = rng.randrange(0, max(1, len(text) - num_chars - 1))
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        return text[start : start + num_chars]

    def sentence(self, index: int) -> str:
        """Sentences in the order of the books, over and over."""
        return self.sentences[index % len(self.sentences)]


def read_books(folder: Path, *, only: Collection[str] = (), skip: Collection[str] = ()) -> Books:
    """The .md and .txt files of a folder; `only` and `skip` are file names.

    Raises TrainingError where the folder, or a file that is named, is not there.
    """
    if not folder.is_dir():
        raise TrainingError(f"--books: expected a folder, got {folder}")
    found = {file.name: file for file in sorted(folder.iterdir()) if file.suffix in (".md", ".txt")}
    for name in [*only, *skip]:
        if name not in found:
            raise TrainingError(
                f"expected a book {name!r} in {folder}, got {', '.join(found) or 'no .md or .txt file'}"
            )
    wanted = [name for name in found if (not only or name in only) and name not in skip]
    if not wanted:
        raise TrainingError(f"expected at least one book in {folder} that is not held out, got none")
    return Books({name: clean(found[name].read_text(encoding="utf8", errors="ignore")) for name in wanted})


def clean(text: str) -> str:
    """Plain quotes and dashes, no Markdown marks, no header (all up to the first `-------`), no blank lines."""
    text = text.split(_HEADER_END, 1)[-1].translate(_PLAIN)
    text = re.sub(r"[_*#>]+", "", text)
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{2,}", "\n", text).strip()


def _plain_sentences(text: str) -> list[str]:
    """Sentences without digits (which would look like answers) and without half a quotation."""
    candidates = (sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", text))
    return [
        sentence
        for sentence in candidates
        if len(sentence) in _SENTENCE_CHARS
        and not re.search(r"\d", sentence)
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and sentence.count('"') % 2 == 0
    ]


_WHO = ["The gardener", "A neighbour", "My uncle", "The captain", "Her sister", "The doctor", "An old man", "The clerk"]
_DID = ["walked along", "waited near", "looked across", "came back from", "wrote about", "thought of", "remembered"]
_WHERE = ["the empty street", "the long wall", "the railway", "the quiet shore", "the upper room", "the open field"]
_WHEN = ["in the morning", "before dinner", "after the rain", "without a word", "at the end of the day", "once more"]
_AND = ["nobody asked why", "the lamps were lit", "it grew late", "there was nothing to say", "the door stood open"]


def stand_in_books(seed: int, num_sentences: int = 4000) -> Books:
    """Made-up sentences in place of books, for smoke runs and tests: enough to run, too poor to learn English from."""
    rng = random.Random(seed)
    sentences = []
    for _ in range(num_sentences):
        start = f"{rng.choice(_WHO)} {rng.choice(_DID)} {rng.choice(_WHERE)} {rng.choice(_WHEN)}"
        sentences.append(f"{start}, and {rng.choice(_AND)}." if rng.random() < 0.5 else f"{start}.")
    return Books({"stand-in": "\n".join(" ".join(sentences[i : i + 8]) for i in range(0, num_sentences, 8))})
