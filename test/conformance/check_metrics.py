"""Sends a request with each policy that the model can run, then reads /metrics with Prometheus' own parser."""

import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

MOST_TOKENS = 4
PROMPT = "The key of the red door is under the old stone. " * 20


def get(url):
    with urllib.request.urlopen(url) as reply:
        return reply.read().decode()


def complete(url, pruning):
    body = {"prompt": PROMPT, "max_tokens": MOST_TOKENS, "ignore_eos": True, "pruning": pruning}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["usage"]


def check(family):
    seen = set()
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        assert key not in seen, f"{key} stands twice"
        seen.add(key)
        assert sample.value == sample.value, f"{key} is not a number"
        assert sample.value >= 0, f"{key} is below zero"
        assert "model_name" in sample.labels, f"{key} names no model"
    assert family.documentation, f"{family.name} has no help text"
    assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is of type {family.type}"
    assert family.samples, f"{family.name} has no samples"


def main():
    url = sys.argv[1]
    policies = json.loads(get(f"{url}/v1/policies"))
    settings = [None, *(preset["name"] for preset in policies["presets"] if preset["supported"])]
    for policy in policies["data"]:
        if policy["supported"]:
            settings.append({policy["family"]: policy["examples"][0]})
    before = {family.name: family for family in text_string_to_metric_families(get(f"{url}/metrics"))}
    used = [complete(url, pruning) for pruning in settings]
    after = {family.name: family for family in text_string_to_metric_families(get(f"{url}/metrics"))}
    for family in after.values():
        check(family)

    def rise(name):
        total = lambda families: sum(sample.value for sample in families[name].samples if sample.name == f"{name}_total")
        return total(after) - total(before)

    assert rise("coppice_prompt_tokens") == sum(usage["prompt_tokens"] for usage in used)
    assert rise("coppice_generation_tokens") == sum(usage["completion_tokens"] for usage in used)
    samples = sum(len(family.samples) for family in after.values())
    print(f"{len(after)} families, {samples} samples, after {len(settings)} settings: valid")


main()
