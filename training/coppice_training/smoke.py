"""The whole way in small: tokenizer, text and vision model, export, evaluation sets, scores, gates, a served reply."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .data.books import stand_in_books
from .data.segments import Encoder
from .data.source import Source
from .errors import TrainingError
from .evaluation.scores import write_reference
from .evaluation.sight_scores import score_sight
from .evaluation.sight_sets import write_sight_set
from .evaluation.text_scores import score_text
from .evaluation.text_sets import write_text_sets
from .export.models import export_checkpoint, read_text_model
from .gates.pattern_file import write_gates
from .gates.training import GateOptions, train_gates
from .tokenizer import load_tokenizer, train_tokenizer
from .train.plan import read_plan, sight_plan, text_plan
from .train.sight import SightRun
from .train.text import TextRun

_PROMPT = "Read this document carefully.\n\nThe pin of the brave owl is 4712.\n\nTell me the pin of the brave owl."

Log = Callable[[str], None]


def run_smoke(folder: Path, coppice: Path | None, log: Log) -> None:
    """Writes everything into a new `folder`; `coppice` is dist/main.js, which then answers with the text model."""
    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"--out: expected a new folder, got {folder}, which is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    books = stand_in_books(seed=1)
    tokenizer_file, text, sight = folder / "tokenizer.json", folder / "text", folder / "sight"
    evals, encoded = folder / "eval", None
    with _timed("tokenizer", log):
        train_tokenizer(books, 1024).save(str(tokenizer_file))
        tokenizer = load_tokenizer(tokenizer_file)
        encoded = Encoder(tokenizer)
    with _timed("text model", log):
        run = TextRun(text_plan(read_plan("smoke-text", tokenizer.get_vocab_size())), Source(encoded, books))
        run.advance(run.plan.schedule.steps, log)
        run.save(folder / "text.pt")
        export_checkpoint(folder / "text.pt", tokenizer, text)
    with _timed("vision model", log):
        looking = SightRun(sight_plan(read_plan("smoke-sight", tokenizer.get_vocab_size())), tokenizer)
        looking.advance(looking.plan.schedule.steps, log)
        looking.save(folder / "sight.pt")
        export_checkpoint(folder / "sight.pt", tokenizer, sight)
    with _timed("evaluation sets", log):
        write_text_sets(Source(encoded, stand_in_books(seed=2), held_out=True), evals, seed=1, scale=0.02)
        write_sight_set(evals, seed=1, per_kind=1)
    with _timed("scores", log):
        for model, scored in (
            (text, score_text(text, evals, ["recall", "copy", "books"], limit=1, log=log)),
            (sight, score_sight(sight, evals, limit=2, log=log)),
        ):
            write_reference(evals / f"reference-{model.name}.json", *scored)
    with _timed("gates", log):
        options = GateOptions(sink=4, recent=16, steps=5, lengths=(256,))
        found = train_gates(read_text_model(text), Source(encoded, books), options, log)
        write_gates(text / "duo-attention", found, options.sink, options.recent, options.origin())
    if coppice is not None:
        with _timed("a reply from coppice", log):
            log(f"coppice says {serve_once(coppice, text, folder / 'cache')!r}")


def serve_once(coppice: Path, model: Path, cache: Path) -> str:
    """What `coppice generate` prints for a question; raises TrainingError with its words where it fails.

    With duo-attention, so that it must read the gates.
    """
    command = ["node", str(coppice), "generate", "--model", str(model), "--cache-dir", str(cache)]
    options = ["--max-tokens", "8", "--pruning", '{"kv": "duo-attention"}']
    done = subprocess.run([*command, *options, _PROMPT], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise TrainingError(f"{coppice} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


@contextmanager
def _timed(what: str, log: Log) -> Iterator[None]:
    started = time.monotonic()
    yield
    log(f"{what}: {time.monotonic() - started:.1f} s")
