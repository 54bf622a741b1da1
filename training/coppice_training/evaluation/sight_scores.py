"""Dense reference scores of the vision model with transformers: greedy, fp32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from .jsonl import read_items
from .scores import Tally


@torch.no_grad()
def score_sight(
    model: Path, evals: Path, limit: int | None = None, log: Callable[[str], None] = print, every: int = 1
) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores by question kind, and generated texts by item id. Every `every`-th item, `limit` at most."""
    processor = AutoProcessor.from_pretrained(str(model))
    network = LlavaForConditionalGeneration.from_pretrained(str(model), dtype=torch.float32).eval()
    tally, outputs = Tally(), {}
    for item in read_items(evals / "sight" / "sight.jsonl")[::every][:limit]:
        prompt = processor.apply_chat_template(item["messages"], tokenize=False, add_generation_prompt=True)
        image = Image.open(evals / "sight" / item["image"])
        inputs = processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
        output = network.generate(**inputs, max_new_tokens=item["max_new_tokens"], do_sample=False)
        reply = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        outputs[item["id"]] = reply
        tally.add([item["kind"], "all"], reply == item["answer"])
    for line in tally.lines():
        log(f"sight {line}")
    return {"sight": tally.shares()}, outputs
