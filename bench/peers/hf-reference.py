"""Greedy ids that Hugging Face transformers gives in f32: what every engine's `greedy` is compared with.

Runs in the export environment (`setup --keep-export`). Usage: hf-reference.py CHECKPOINT

`margins` is the lead of each id's logit over the next best: an engine in fewer bits may differ where it is small.
"""

import json
import sys

import torch
import transformers

from prompts import SEEDS, WORK, prompt_ids


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(2)
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    ids = prompt_ids(WORK["warmup_tokens"], SEEDS["warmup"])
    margins = []
    for _ in range(WORK["warmup_output"]):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margins.append(round(float(best.values[0] - best.values[1]), 4))
        ids.append(int(best.indices[0]))
    greedy = ids[WORK["warmup_tokens"] :]
    print(json.dumps({"engine": "transformers f32", "version": transformers.__version__, "greedy": greedy, "margins": margins}))


main()
