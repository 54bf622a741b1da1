"""Gates: the file that coppice's own reader takes, and what training them does."""

import json
import re

import pytest
import torch

from coppice_training.errors import TrainingError
from coppice_training.export.models import read_text_model
from coppice_training.gates.measure import SETTINGS, describe_table, recall_by_share
from coppice_training.gates.pattern_file import read_gates, write_gates
from coppice_training.gates.training import GateOptions, train_gates
from coppice_training.train.text import new_text_model

from .conftest import REPOSITORY

SHIPPED = REPOSITORY / "models" / "coppice-recall"
# What src/graph/head-pattern.ts takes for a number.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def test_files_are_as_the_reader_wants_them(tmp_path):
    gates = torch.tensor([[0.0, 1.0], [1e-30, 0.37802749872207642]])
    write_gates(tmp_path, gates, 16, 64, GateOptions().origin())
    text = (tmp_path / "full_attention_heads.tsv").read_text()
    lines = text.removesuffix("\n").split("\n")
    assert [len(line.split("\t")) for line in lines] == [2, 2]
    assert all(NUMBER.fullmatch(field) for line in lines for field in line.split("\t"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["sink_size"] == 16 and config["recent_size"] == 64
    assert torch.equal(read_gates(tmp_path, 2, 2), gates)
    with pytest.raises(TrainingError, match="expected 3 lines of 2 gates"):
        read_gates(tmp_path, 3, 2)


def test_the_shipped_gates_have_the_same_form(tmp_path):
    shipped = SHIPPED / "duo-attention"
    options = GateOptions()
    write_gates(tmp_path, read_gates(shipped, 6, 4), options.sink, options.recent, options.origin())
    name = "full_attention_heads.tsv"
    assert (tmp_path / name).read_text() == (shipped / name).read_text()
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((shipped / "config.json").read_text())


def test_training_lowers_gates_and_leaves_weights_alone(source, tiny_text_plan):
    model = new_text_model(tiny_text_plan)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = GateOptions(sink=4, recent=16, steps=6, lengths=(256,))
    gates = train_gates(model, source, options)
    assert gates.shape == (tiny_text_plan.model.layers, tiny_text_plan.model.kv_heads)
    assert gates.min() >= 0 and gates.max() <= 1 and gates.mean() < 0.97
    assert torch.equal(gates, train_gates(model, source, options))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_shipped_gates_name_the_heads_that_recall_needs(held_out):
    """At 75 % streaming heads recall stays; with the heads of highest gates streaming it goes."""
    model = read_text_model(SHIPPED)
    table = recall_by_share(model, held_out, read_gates(SHIPPED / "duo-attention", 6, 4), (256,), 8, 24, num_texts=2)
    rows = table["256"]
    right = {name: counts[0] / counts[1] for name, counts in rows.items()}
    assert set(right) == {"full", *(name for name, _, _ in SETTINGS)}
    assert right["full"] > 0.95 and right["0.75"] > 0.95
    assert right["inverted-0.5"] < 0.3 and right["1.0"] < 0.3
    assert any(line.startswith("256 full: 100.0 %") for line in describe_table(table))
