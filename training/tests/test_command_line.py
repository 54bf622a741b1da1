"""Commands as users call them: training with resume, export, sets, scores, gates, and the smoke run."""

import json
import shutil

import pytest
import torch

from coppice_training.__main__ import build_parser, main
from coppice_training.smoke import serve_once

from .conftest import REPOSITORY

TOKENIZER = str(REPOSITORY / "models" / "coppice-recall" / "tokenizer.json")
COPPICE = REPOSITORY / "dist" / "main.js"


def test_training_stops_resumes_and_exports(tmp_path, capsys):
    run, other = str(tmp_path / "run.pt"), str(tmp_path / "other.pt")
    common = ["train-text", "--plan", "smoke-text", "--tokenizer", TOKENIZER, "--save-every", "2"]
    assert main([*common, "--out", run, "--until", "3"]) == 0
    assert "step 3, " in capsys.readouterr().err
    assert main([*common, "--out", run, "--until", "5"]) == 1
    assert "expected a new file, or --resume" in capsys.readouterr().err
    assert main([*common, "--out", run, "--until", "5", "--resume"]) == 0
    assert main([*common, "--out", other, "--until", "5"]) == 0
    first, second = (torch.load(file, weights_only=True)["model"] for file in (run, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    folder = tmp_path / "model"
    assert main(["export", run, "--tokenizer", TOKENIZER, "--out", str(folder), "--shard-mb", "0.3"]) == 0
    assert (folder / "model.safetensors.index.json").is_file()


def test_gates_of_an_export(tmp_path, capsys):
    run, folder = str(tmp_path / "run.pt"), tmp_path / "model"
    main(["train-text", "--plan", "smoke-text", "--tokenizer", TOKENIZER, "--out", run, "--until", "1"])
    main(["export", run, "--tokenizer", TOKENIZER, "--out", str(folder)])
    out = folder / "duo-attention"
    arguments = ["--sink", "2", "--recent", "8", "--steps", "2", "--lengths", "256", "--measure", "256", "--texts", "1"]
    assert main(["gates", "--model", str(folder), "--out", str(out), *arguments]) == 0
    assert json.loads((out / "config.json").read_text())["recent_size"] == 8
    assert "256 inverted-0.5: " in capsys.readouterr().out


def test_sight_sets_and_vision_training(tmp_path, capsys):
    assert main(["eval-sets", "--sight", "--seed", "1", "--per-kind", "1", "--out", str(tmp_path)]) == 0
    run = str(tmp_path / "sight.pt")
    plan = ["--plan", "smoke-sight", "--tokenizer", TOKENIZER, "--out", run, "--until", "1"]
    assert main(["train-sight", *plan]) == 0
    assert "object patches" in capsys.readouterr().err


def test_scores_are_compared(tmp_path, capsys):
    model = str(REPOSITORY / "models" / "coppice-recall-draft")
    evals = REPOSITORY / "eval"
    score = ["score", "--model", model, "--evals", str(evals), "--sets", "recall", "--limit", "2"]
    own = tmp_path / "reference.json"
    assert main([*score, "--out", str(own), "--compare", str(evals / "reference-coppice-recall-draft.json")]) == 0
    assert "2 of 2 texts" in capsys.readouterr().err
    changed = json.loads(own.read_text())
    changed["outputs"]["recall-256-0"] = "something else"
    own.write_text(json.dumps(changed))
    assert main([*score, "--compare", str(own)]) == 1
    assert "got others for recall-256-0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenizer", "--out", "x.json", "--books", "/no/such/folder"], "--books: expected a folder"),
        (["tokenizer", "--out", "x.json", "--held-out", "a.md"], "expected --books as well"),
        (["eval-sets", "--seed", "1", "--out", "x"], "--tokenizer: expected"),
        (["eval-sets", "--seed", "1", "--out", "x", "--tokenizer", TOKENIZER, "--book", "a"], "together, or neither"),
        (["score", "--model", "/none", "--evals", "/none"], "--model: expected a folder with config.json"),
        (["train-text", "--tokenizer", TOKENIZER, "--out", "x.pt", "--plan", "sight"], "expected a plan for text"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") or "\nerror: " in error
    assert message in error
    assert not list(tmp_path.iterdir())


def test_numbers_are_checked():
    with pytest.raises(SystemExit):
        build_parser().parse_args(["smoke", "--out", "x", "extra"])
    with pytest.raises(SystemExit):
        build_parser().parse_args(["tokenizer", "--out", "x", "--entries", "0"])


def test_smoke(tmp_path, capsys):
    """All commands' work in small; the exported model is served if coppice is built and Node.js is there."""
    folder = tmp_path / "smoke"
    served = ["--coppice", str(COPPICE)] if COPPICE.is_file() and shutil.which("node") else []
    assert main(["smoke", "--out", str(folder), *served]) == 0
    error = capsys.readouterr().err
    assert "gates: " in error
    assert ("coppice says" in error) == bool(served)
    for name in ("text/model.safetensors", "text/duo-attention/config.json", "sight/preprocessor_config.json"):
        assert (folder / name).is_file()
    for name in ("text", "sight"):
        assert json.loads((folder / "eval" / f"reference-{name}.json").read_text())["outputs"]
    assert main(["smoke", "--out", str(folder)]) == 1
    assert "expected a new folder" in capsys.readouterr().err


def test_failing_coppice_is_reported(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("needs Node.js")
    broken = tmp_path / "main.js"
    broken.write_text("console.error('no model'); process.exit(3);")
    with pytest.raises(Exception, match="no model"):
        serve_once(broken, tmp_path, tmp_path)
