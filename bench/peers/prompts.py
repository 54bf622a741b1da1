"""The Python twin of ../prompts.ts: the same prompt ids, sizes and options, and the same JSON line."""

import argparse

SEEDS = {"warmup": 29, "prefill": 1000, "streams": 2000}
WORK = {
    "warmup_tokens": 64,
    "warmup_output": 6,
    "decode_steps": 24,
    "streams": 8,
    "stream_prompt": 256,
    "stream_output": 64,
}


def prompt_ids(length: int, seed: int) -> list[int]:
    return [300 + (i * 7919 + seed * 104_729) % 150_000 for i in range(length)]


def bench_options() -> argparse.ArgumentParser:
    """Flags of `parseBenchOptions`; a peer may add its own."""

    def lengths(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=lengths, default=[512, 1024, 4096, 8192])
    parser.add_argument("--decode", type=lengths, default=[1024, 4096, 8192])
    parser.add_argument("--no-streams", action="store_true")
    return parser


def stream_rates(arrivals_ms: list[list[float]]) -> dict[str, float]:
    """Arrival times (ms from one common start) of the ids of each stream -> the two rates of `streams8`."""
    every = [t for stream in arrivals_ms for t in stream]
    end = max(every)
    all_started = max(stream[0] for stream in arrivals_ms)
    after = sum(t > all_started for t in every)
    return {"tps_end_to_end": len(every) / end * 1000, "tps_decode": after / (end - all_started) * 1000}


def peak_rss_mb() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024)
