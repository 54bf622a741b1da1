"""Exports: transformers loads them without a word and gives the same logits; shards; what cannot be exported."""

import json
from random import Random

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from coppice_training.chat import text_prompt
from coppice_training.data.sampler import draw
from coppice_training.errors import TrainingError
from coppice_training.export.models import export_checkpoint, export_sight, export_text, read_text_model
from coppice_training.sight.pixels import normalise
from coppice_training.sight.scenes import draw_scene
from coppice_training.tokenizer import train_tokenizer
from coppice_training.train.sight import SightRun
from coppice_training.train.text import TextRun

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def trained(source, tiny_text_plan):
    run = TextRun(tiny_text_plan, source)
    run.advance(3)
    return run


def assert_clean(info):
    assert not any(info.values()), info


def test_text_logits_are_those_of_transformers(tmp_path, source, tokenizer, trained, tiny_text_plan):
    export_text(trained.model, tiny_text_plan, tokenizer, tmp_path, "float32")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert_clean(info)
    ids = torch.tensor([draw(source, Random(1), 256, "recall").ids])
    with torch.no_grad():
        ours, theirs = trained.model(ids, trained.model.table(256)), loaded(ids).logits
    assert (ours - theirs).abs().max() < TOLERANCE
    assert ours.std() > 0.1


def test_fp16_checkpoints_read_back_as_stored(tmp_path, tokenizer, trained, source):
    trained.save(tmp_path / "run.pt")
    size = export_checkpoint(tmp_path / "run.pt", tokenizer, tmp_path / "model")
    assert size == 2 * sum(parameter.numel() for parameter in trained.model.parameters())
    ids = torch.tensor([draw(source, Random(1), 256, "text").ids])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    again = read_text_model(tmp_path / "model")
    with torch.no_grad():
        assert (again(ids, again.table(256)) - loaded(ids).logits).abs().max() < TOLERANCE


def test_shards_stay_below_their_size_and_load_the_same(tmp_path, source, tokenizer, trained, tiny_text_plan):
    limit = 300_000
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    export_text(trained.model, tiny_text_plan, tokenizer, whole)
    total = export_text(trained.model, tiny_text_plan, tokenizer, parts, shard_bytes=limit)
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) >= 2 and all(file.stat().st_size <= limit for file in files)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == total
    for file in files:
        with safe_open(file, "pt") as shard:
            assert all(index["weight_map"][name] == file.name for name in shard.keys())  # noqa: SIM118
    ids = torch.tensor([draw(source, Random(1), 256, "text").ids])
    with torch.no_grad():
        one, other = (AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in (whole, parts))
    assert torch.equal(one, other)
    export_text(trained.model, tiny_text_plan, tokenizer, parts)
    assert [file.name for file in parts.glob("*.safetensors*")] == ["model.safetensors"], "old shards are gone"
    with pytest.raises(TrainingError, match="expected shards of at least"):
        export_text(trained.model, tiny_text_plan, tokenizer, parts, shard_bytes=1000)


def test_sight_logits_are_those_of_transformers(tmp_path, tokenizer, tiny_sight_plan):
    run = SightRun(tiny_sight_plan, tokenizer)
    run.advance(2)
    export_sight(run.model.sight, tiny_sight_plan, tokenizer, tmp_path, "float32")
    loaded, info = LlavaForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert_clean(info)
    image, _ = draw_scene(Random(1))
    processor = AutoProcessor.from_pretrained(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "How many objects are there?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
    assert torch.allclose(inputs["pixel_values"], normalise(image)[None], atol=1e-5)
    ids = inputs["input_ids"]
    places = (ids[0] == 3).nonzero().flatten()
    assert len(places) == tiny_sight_plan.vision.patches
    before, after = ids[:, : places[0]], ids[:, places[-1] + 1 :]
    with torch.no_grad():
        theirs = loaded.eval()(**inputs).logits[:, places[-1] + 1 :]
        ours = run.model.sight(inputs["pixel_values"], before, after, run.model.sight.language.table(ids.shape[1]))
    assert (ours - theirs).abs().max() < TOLERANCE


def test_prompts_are_those_of_the_exported_template(tmp_path, tokenizer, trained, tiny_text_plan):
    export_text(trained.model, tiny_text_plan, tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Hm."}, {"role": "user", "content": "What?"}]
    prompt = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == text_prompt(messages)
    ids = loaded(prompt, add_special_tokens=False).input_ids
    assert ids == tokenizer.encode(prompt, add_special_tokens=False).ids


def test_the_pipeline_sees_the_image(tmp_path, tokenizer, tiny_sight_plan):
    """Another image gives other logits, through our model and its processing alike."""
    run = SightRun(tiny_sight_plan, tokenizer)
    before, after = run.sampler.before, torch.tensor([tokenizer.encode("\nWhat?").ids])
    table = run.model.sight.language.table(before.shape[1] + tiny_sight_plan.vision.patches + after.shape[1])
    blank = Image.new("RGB", (112, 112))
    with torch.no_grad():
        one, other = (
            run.model.sight(normalise(image)[None], before, after, table) for image in (draw_scene(Random(1))[0], blank)
        )
    assert not torch.equal(one, other)


def test_wrong_exports_are_refused(tmp_path, books, trained):
    trained.save(tmp_path / "run.pt")
    with pytest.raises(TrainingError, match="expected the 1536 entries"):
        export_checkpoint(tmp_path / "run.pt", train_tokenizer(books, 600), tmp_path / "model")
    with pytest.raises(TrainingError, match="expected a folder with"):
        read_text_model(tmp_path / "none")
