"""What each command does with its parsed arguments; heavy imports wait until a command needs them."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .data.books import Books, read_books, stand_in_books
from .data.segments import Encoder
from .data.source import Source
from .errors import TrainingError
from .tokenizer import load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from .train.run import Run

_TRAINING_SEED, _EVALUATION_SEED = 1, 2
"""Of the stand-in text, so that evaluation has sentences of its own."""


def training_books(args: argparse.Namespace) -> Books:
    """The books of --books without those of --held-out; made-up sentences, and a word about it, without --books."""
    if args.books is None:
        if args.held_out:
            raise TrainingError("--held-out: expected --books as well")
        _say("no --books: made-up sentences take their place, from which no English can be learnt")
        return stand_in_books(_TRAINING_SEED)
    return read_books(args.books, skip=args.held_out)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tokenizer(args: argparse.Namespace) -> None:
    """Trains a tokenizer."""
    trained = train_tokenizer(training_books(args), args.entries)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trained.save(str(args.out))
    _say(f"{args.out}: {trained.get_vocab_size()} entries")


def train_text(args: argparse.Namespace) -> None:
    """Trains a text model by a plan, with a checkpoint every few steps."""
    from .train.monitor import recall_accuracy
    from .train.plan import read_plan, text_plan
    from .train.text import TextRun

    vocabulary = load_tokenizer(args.tokenizer)
    plan = text_plan(read_plan(args.plan, vocabulary.get_vocab_size()))
    books, encoder = training_books(args), Encoder(vocabulary)
    run = TextRun(plan, Source(encoder, books), compiled=args.compile)
    held_out = Source(encoder, books, held_out=True)

    def measure() -> str:
        right, count = recall_accuracy(run.model, held_out, 256, 8, seed=6)
        return f"{right} of {count} held-out answers right at 256 tokens"

    _train(args, run, measure)


def train_sight(args: argparse.Namespace) -> None:
    """Trains a vision model by a plan."""
    from .train.plan import read_plan, sight_plan
    from .train.sight import SightRun

    vocabulary = load_tokenizer(args.tokenizer)
    plan = sight_plan(read_plan(args.plan, vocabulary.get_vocab_size()))
    run = SightRun(plan, vocabulary, compiled=args.compile)
    _train(args, run, lambda: ", ".join(f"{name} {share:.1%}" for name, share in run.accuracy(2, seed=99).items()))


def _train(args: argparse.Namespace, run: "Run", measure: Callable[[], str]) -> None:
    if args.resume:
        run.resume(args.out)
    elif args.out.exists():
        raise TrainingError(f"--out: expected a new file, or --resume, got {args.out}, which exists")
    elif args.start is not None:
        run.start_from(args.start)
    last = run.plan.schedule.steps if args.until is None else min(args.until, run.plan.schedule.steps)
    while run.step < last:
        run.advance(min(run.step + args.save_every, last), _say)
        run.save(args.out)
        _say(f"{args.out}: step {run.step}, {measure()}")


def export(args: argparse.Namespace) -> None:
    """Exports a checkpoint."""
    from .export.models import export_checkpoint

    shard_bytes = round(args.shard_mb * 1e6)
    size = export_checkpoint(args.checkpoint, load_tokenizer(args.tokenizer), args.out, args.dtype, shard_bytes)
    _say(f"{args.out}: {size / 1e6:.1f} MB of weights")


def eval_sets(args: argparse.Namespace) -> None:
    """Writes the text sets, or with --sight the images and their questions."""
    if args.sight:
        from .evaluation.sight_sets import write_sight_set

        _say(f"{args.out}: sight {write_sight_set(args.out, args.seed, args.per_kind)}")
        return
    from .evaluation.text_sets import write_text_sets

    if args.tokenizer is None:
        raise TrainingError("--tokenizer: expected a tokenizer.json for the text sets")
    if (args.books is None) != (args.book is None):
        raise TrainingError("expected --books and --book together, or neither")
    books = stand_in_books(_EVALUATION_SEED) if args.books is None else read_books(args.books, only=[args.book])
    source = Source(Encoder(load_tokenizer(args.tokenizer)), books, held_out=True)
    counts = write_text_sets(source, args.out, args.seed, scale=args.scale)
    _say(f"{args.out}: {', '.join(f'{name} {count}' for name, count in counts.items())}")


def score(args: argparse.Namespace) -> None:
    """Scores an exported model; fails if --compare names a file with other texts."""
    from .evaluation.scores import compare_outputs, write_reference
    from .evaluation.sight_scores import score_sight
    from .evaluation.text_scores import SETS, score_text

    config = args.model / "config.json"
    if not config.is_file():
        raise TrainingError(f"--model: expected a folder with config.json, got {args.model}")
    if json.loads(config.read_text(encoding="utf8"))["model_type"] == "llava":
        scores, outputs = score_sight(args.model, args.evals, args.limit, every=args.every)
    else:
        sets = args.sets.split(",")
        for name in sets:
            if name not in SETS:
                raise TrainingError(f"--sets: expected some of {','.join(SETS)}, got {name!r}")
        scores, outputs = score_text(args.model, args.evals, sets, args.limit, every=args.every)
    if args.out is not None:
        write_reference(args.out, scores, outputs)
    if args.compare is not None:
        shared, different = compare_outputs(outputs, args.compare)
        _say(f"{shared - len(different)} of {shared} texts are those of {args.compare}")
        if different:
            raise TrainingError(f"--compare: expected the same texts, got others for {', '.join(different[:10])}")


def agree(args: argparse.Namespace) -> None:
    """Measures a draft model beside its target."""
    from .evaluation.agreement import draft_agreement

    for name, (share, count) in draft_agreement(args.target, args.draft, args.evals, args.reference).items():
        print(f"{name}: {100 * share:.1f} % of {count} positions")


def gates(args: argparse.Namespace) -> None:
    """Trains DuoAttention gates of an exported text model, and measures recall by the share that streams."""
    from .export.models import read_text_model
    from .gates.measure import describe_table, recall_by_share
    from .gates.pattern_file import write_gates
    from .gates.training import GateOptions, train_gates

    options = GateOptions(args.sink, args.recent, args.steps, lengths=tuple(args.lengths))
    model = read_text_model(args.model)
    encoder = Encoder(load_tokenizer(args.model / "tokenizer.json"))
    books = training_books(args)
    found = train_gates(model, Source(encoder, books), options, _say)
    write_gates(args.out, found, options.sink, options.recent, options.origin())
    held_out = Source(encoder, books, held_out=True)
    table = recall_by_share(model, held_out, found, tuple(args.measure), options.sink, options.recent, args.texts)
    for line in describe_table(table):
        print(line)


def smoke(args: argparse.Namespace) -> None:
    """Goes the whole way with tiny models."""
    from .smoke import run_smoke

    run_smoke(args.out, args.coppice, _say)
