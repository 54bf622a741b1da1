"""Command line: `python -m coppice_training COMMAND ...`."""

import argparse
import os
import sys
from pathlib import Path

from . import commands
from .errors import TrainingError

_SETS = "recall,turns,long,copy,books"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; 0 if it went well, 1 for a user's mistake, 2 for arguments that cannot be parsed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models and data are local files, always
    args = build_parser().parse_args(arguments)
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    try:
        args.run(args)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="coppice_training", description=__doc__)
    parser.add_argument("--threads", type=_positive, help="of torch (its own default otherwise)")
    add = parser.add_subparsers(required=True, metavar="COMMAND").add_parser

    command = add("tokenizer", help="train a tokenizer")
    command.set_defaults(run=commands.tokenizer)
    _books(command)
    command.add_argument("--entries", type=_positive, default=1536)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="tokenizer.json")

    for name, action, plan in (("text", commands.train_text, "recall"), ("sight", commands.train_sight, "sight")):
        command = add(f"train-{name}", help=f"train a {name} model by a plan")
        command.set_defaults(run=action)
        if name == "text":
            _books(command)
        _training(command, plan)

    command = add("export", help="write a checkpoint as a folder in Hugging Face's layout")
    command.set_defaults(run=commands.export)
    command.add_argument("checkpoint", type=Path)
    command.add_argument("--tokenizer", type=Path, required=True, metavar="FILE")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    command.add_argument("--shard-mb", type=float, default=15.0, help="most megabytes (10^6) a weight file")

    command = add("eval-sets", help="write evaluation sets from a seed")
    command.set_defaults(run=commands.eval_sets)
    command.add_argument("--seed", type=int, required=True, help="101 (text) and 303 (sight) made the shipped sets")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--tokenizer", type=Path, metavar="FILE", help="for the text sets")
    command.add_argument("--books", type=Path, metavar="FOLDER")
    command.add_argument("--book", metavar="NAME", help="the held-out file in --books that filler is taken from")
    command.add_argument("--scale", type=float, default=1.0, help="share of the items of the text sets")
    command.add_argument("--sight", action="store_true", help="write the image set instead")
    command.add_argument("--per-kind", type=_positive, default=22, help="image questions of each kind")

    command = add("score", help="dense reference scores with transformers")
    command.set_defaults(run=commands.score)
    command.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--evals", type=Path, required=True, metavar="FOLDER")
    command.add_argument("--sets", default=_SETS, help=f"of a text model: some of {_SETS}")
    command.add_argument("--limit", type=_positive, help="most items a set")
    command.add_argument("--every", type=_positive, default=1, help="only every n-th item")
    command.add_argument("--out", type=Path, metavar="FILE", help="scores and texts as JSON; merged if it is there")
    command.add_argument("--compare", type=Path, metavar="FILE", help="fail unless the texts are those in this file")

    command = add("agree", help="how often a draft model's greedy token is the target's")
    command.set_defaults(run=commands.agree)
    for option in ("--target", "--draft", "--evals", "--reference"):
        command.add_argument(option, type=Path, required=True)

    command = add("gates", help="train DuoAttention gates of an exported text model")
    command.set_defaults(run=commands.gates)
    _books(command)
    command.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="MODEL/duo-attention is what is read"
    )
    command.add_argument("--sink", type=_positive, default=16, help="tokens")
    command.add_argument("--recent", type=_positive, default=64, help="tokens")
    command.add_argument("--steps", type=_positive, default=160)
    command.add_argument("--lengths", type=_positive, nargs="+", default=[1024, 2048], help="tokens of training texts")
    command.add_argument("--measure", type=_positive, nargs="*", default=[1024], help="lengths to measure recall at")
    command.add_argument("--texts", type=_positive, help="to measure with (by default about 15,000 tokens a length)")

    command = add("smoke", help="the whole way with tiny models, in about a minute")
    command.set_defaults(run=commands.smoke)
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    command.add_argument("--coppice", type=Path, metavar="FILE", help="dist/main.js: serve the exported model, too")
    return parser


def _books(command: argparse.ArgumentParser) -> None:
    command.add_argument("--books", type=Path, metavar="FOLDER", help="plain-text books, .md or .txt")
    command.add_argument("--held-out", action="append", default=[], metavar="NAME", help="a file to skip; repeatable")


def _training(command: argparse.ArgumentParser, plan: str) -> None:
    command.add_argument("--plan", default=plan, help="a plan's name or a .toml file")
    command.add_argument("--tokenizer", type=Path, required=True, metavar="FILE")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the checkpoint")
    command.add_argument("--resume", action="store_true", help="go on from --out")
    command.add_argument("--start", type=Path, metavar="FILE", help="take the weights of another checkpoint first")
    command.add_argument("--until", type=_positive, metavar="STEP", help="stop before the plan's last step")
    command.add_argument("--save-every", type=_positive, default=100, metavar="STEPS")
    command.add_argument("--compile", action="store_true", help="compile the loss (needs a C++ compiler)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
