"""Keeps generated requests short: what is asked of the model stays valid where it was, mistakes stay mistakes."""

import schemathesis

MOST_TOKENS = 8
MOST_CHOICES = 2

LIMITS = {
    "max_tokens": MOST_TOKENS,
    "max_completion_tokens": MOST_TOKENS,
    "max_output_tokens": MOST_TOKENS,
    "min_tokens": MOST_TOKENS,
    "n": MOST_CHOICES,
}


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    for name, most in LIMITS.items():
        if is_count(body.get(name)):
            body[name] = min(body[name], most)
    path = case.operation.path
    if path == "/v1/chat/completions" and not {"max_tokens", "max_completion_tokens"} & body.keys():
        body["max_completion_tokens"] = MOST_TOKENS
    if path == "/v1/responses" and "max_output_tokens" not in body:
        body["max_output_tokens"] = MOST_TOKENS
    # Made-up ids lead nowhere, and nothing behind them would be reached.
    if isinstance(body.get("input"), str):
        body.pop("previous_response_id", None)
