"""Runs: resuming gives the state of an uninterrupted run, the loss falls, plans are checked."""

from dataclasses import asdict, replace

import pytest
import torch

from coppice_training.errors import TrainingError
from coppice_training.train.plan import PLAN_FOLDER, Schedule, make_plan, read_plan, sight_plan, text_plan
from coppice_training.train.sight import SightRun
from coppice_training.train.text import TextRun


def assert_same_state(first, second):
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    for one, other in (("muon", "muon"), ("adam", "adam")):
        a, b = getattr(first.optimisers, one).state_dict(), getattr(second.optimisers, other).state_dict()
        for index, state in a["state"].items():
            for key, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["state"][index][key])), (one, index, key)
    assert (first.step, first.average_loss) == (second.step, second.average_loss)
    assert first.rng.getstate() == second.rng.getstate()


def test_resumed_text_run_equals_an_uninterrupted_one(tmp_path, source, tiny_text_plan):
    whole, half = TextRun(tiny_text_plan, source), TextRun(tiny_text_plan, source)
    whole.advance(7)
    half.advance(4)
    half.save(tmp_path / "run.pt")
    resumed = TextRun(tiny_text_plan, source)
    resumed.resume(tmp_path / "run.pt")
    assert resumed.step == 4
    resumed.advance(7)
    assert_same_state(whole, resumed)


def test_resumed_sight_run_equals_an_uninterrupted_one(tmp_path, tokenizer, tiny_sight_plan):
    plan = replace(tiny_sight_plan, vision_only_steps=2)
    whole, half, resumed = (SightRun(plan, tokenizer) for _ in range(3))
    whole.advance(5)
    half.advance(3)
    half.save(tmp_path / "run.pt")
    resumed.resume(tmp_path / "run.pt")
    resumed.advance(5)
    assert_same_state(whole, resumed)


def test_the_loss_falls(source, tiny_text_plan):
    run = TextRun(tiny_text_plan, source)
    run.advance(1)
    first = run.average_loss
    run.advance(60)
    assert run.step == tiny_text_plan.schedule.steps
    assert run.average_loss < first - 1
    run.advance(100)
    assert run.step == tiny_text_plan.schedule.steps, "a plan's last step is the last"


def test_bf16_runs(source, tiny_text_plan):
    exact, rounded = TextRun(tiny_text_plan, source), TextRun(replace(tiny_text_plan, bf16=True), source)
    exact.advance(1)
    rounded.advance(1)
    assert exact.average_loss != rounded.average_loss
    assert exact.average_loss == pytest.approx(rounded.average_loss, rel=0.02)


def test_compiled_runs_compile_their_loss(source, tiny_text_plan, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_options: compiled.append(function) or function)
    TextRun(tiny_text_plan, source, compiled=True).advance(1)
    assert len(compiled) == 1


def test_plain_start_differs_from_the_structured_one(source, tiny_text_plan):
    structured, plain = TextRun(tiny_text_plan, source), TextRun(replace(tiny_text_plan, structured=False), source)
    assert (structured.model.embedding.weight[:, 0] == structured.model.embedding.weight[0, 0]).all()
    assert not (plain.model.embedding.weight[:, 0] == plain.model.embedding.weight[0, 0]).all()


def test_start_takes_only_weights_of_the_same_sizes(tmp_path, source, tiny_text_plan):
    first = TextRun(tiny_text_plan, source)
    first.advance(2)
    first.save(tmp_path / "run.pt")
    second = TextRun(replace(tiny_text_plan, seed=5), source)
    second.start_from(tmp_path / "run.pt")
    assert second.step == 0
    assert torch.equal(second.model.embedding.weight, first.model.embedding.weight)
    smaller = TextRun(replace(tiny_text_plan, model=replace(tiny_text_plan.model, mlp=64)), source)
    with pytest.raises(TrainingError, match="--start: expected a model of"):
        smaller.start_from(tmp_path / "run.pt")
    with pytest.raises(TrainingError, match="same plan"):
        second.resume(tmp_path / "run.pt")
    with pytest.raises(TrainingError, match="got no file"):
        second.resume(tmp_path / "none.pt")


@pytest.mark.parametrize("file", sorted(PLAN_FOLDER.glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_plans(file):
    plan = read_plan(file.stem, 1536)
    assert make_plan(asdict(plan), "again") == plan
    tasks = getattr(plan, "stages", [])
    for stage in tasks:
        assert sum(stage.lengths.values()) == pytest.approx(1)
        assert sum(stage.tasks.values()) == pytest.approx(1)


def test_plans_follow_their_stages_and_schedule():
    plan = text_plan(read_plan("recall", 1536))
    assert plan.stage(0).lengths == {"256": 1.0}
    assert plan.stage(plan.schedule.steps - 1).lengths["2048"] == 0.5
    schedule = Schedule(steps=100, muon_rate=1, adam_rate=1, warmup_steps=10, decay_share=0.4, floor=0.02)
    assert [schedule.factor(step) for step in (0, 9, 50, 80)] == pytest.approx([0.1, 1, 1, 0.5])
    assert schedule.factor(99) == pytest.approx(0.025)


def test_wrong_plans_are_refused(tmp_path):
    text = (PLAN_FOLDER / "smoke-text.toml").read_text()
    file = tmp_path / "plan.toml"
    for old, new, message in (
        ("bf16 =", "bf17 =", "without bf16, with unknown bf17"),
        ("until = 1.0", "until = 0.9", "the last 1.0"),
        ("copying =", "poems =", "got 'poems'"),
        ("512 = 0.4", "4096 = 0.4", "up to max_position 512, got 4096"),
        ("[schedule]", "[plan]", "expected a table 'schedule'"),
        ("seed = 1", "seed = ", "expected TOML"),
    ):
        file.write_text(text.replace(old, new))
        with pytest.raises(TrainingError, match=message):
            read_plan(str(file), 1536)
    with pytest.raises(TrainingError, match="expected one of draft, recall"):
        read_plan("none", 1536)
    with pytest.raises(TrainingError, match="expected a plan for text"):
        text_plan(read_plan("sight", 1536))
    with pytest.raises(TrainingError, match="with a vision table"):
        sight_plan(read_plan("draft", 1536))
