"""Measures OpenVINO GenAI (continuous batching, its own defaults) and prints one line as `Measurement` in ../prompts.ts.

Runs in the run environment. Usage: openvino-genai.py --model FOLDER [flags of ../prompts.ts] [--kv-precision f16]
[--sparse trishape] [--evict 1024]
"""

import argparse
import json
import statistics
import time

import numpy
import openvino
import openvino_genai as genai

from prompts import SEEDS, WORK, bench_options, peak_rss_mb, prompt_ids, stream_rates


def main() -> None:
    parser = bench_options()
    parser.add_argument("--kv-precision", help="KV_CACHE_PRECISION of the plugin; its default is u8")
    parser.add_argument("--sparse", choices=["trishape"], help="sparse attention during the prompt")
    parser.add_argument("--evict", type=int, metavar="TOKENS", help="most tokens in the cache; the others are evicted")
    options = parser.parse_args()

    start = time.perf_counter()
    engine = Engine(options)
    load_ms = since(start)

    [arrivals], [greedy] = engine.generate([prompt_ids(WORK["warmup_tokens"], SEEDS["warmup"])], WORK["warmup_output"])
    first_request_ms = arrivals[0]

    prefill_ms, decode_ms = {}, {}
    for i, length in enumerate(options.prefill):
        steps = WORK["decode_steps"] if length in options.decode else 0
        [arrivals], _ = engine.generate([prompt_ids(length, SEEDS["prefill"] + i)], 1 + steps)
        prefill_ms[length] = arrivals[0]
        if steps:
            decode_ms[length] = statistics.median(numpy.diff(arrivals).tolist())

    streams8 = None
    if not options.no_streams:
        prompts = [prompt_ids(WORK["stream_prompt"], SEEDS["streams"] + i) for i in range(WORK["streams"])]
        streams8 = stream_rates(engine.generate(prompts, WORK["stream_output"])[0])

    kv = f", {options.kv_precision} KV" if options.kv_precision else ""
    sparse = f", {options.sparse}" if options.sparse else ""
    evict = f", evicting to {options.evict}" if options.evict else ""
    line = {
        "engine": f"OpenVINO GenAI{kv}{sparse}{evict}",
        "version": genai.__version__,
        "threads": options.threads,
        "load_ms": load_ms,
        "first_request_ms": first_request_ms,
        "greedy": greedy,
        "prefill_ms": prefill_ms,
        "decode_ms": decode_ms,
        "streams8": streams8,
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(line))


class Engine:
    """A pipeline that is stepped by hand, so that one stream and eight are timed the same way."""

    def __init__(self, options: argparse.Namespace) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB at most; the cache grows as it is needed
        scheduler.enable_prefix_caching = False
        if options.sparse:
            scheduler.use_sparse_attention = True
            scheduler.sparse_attention_config = trishape()
        if options.evict:
            scheduler.use_cache_eviction = True
            scheduler.cache_eviction_config = eviction(options.evict)
        properties: dict[str, object] = {"INFERENCE_NUM_THREADS": options.threads}
        if options.kv_precision:
            properties["KV_CACHE_PRECISION"] = options.kv_precision
        self.pipeline = genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", properties)
        self.requests = 0

    def generate(self, prompts: list[list[int]], new_tokens: int) -> tuple[list[list[float]], list[list[int]]]:
        """All prompts at once, greedily, exactly `new_tokens` each -> arrival times (ms from the start) and ids."""
        config = genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        arrivals: list[list[float]] = [[] for _ in prompts]
        ids: list[list[int]] = [[] for _ in prompts]
        start = time.perf_counter()
        handles = []
        for prompt in prompts:
            self.requests += 1
            tensor = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
            handles.append(self.pipeline.add_request(self.requests, tensor, config))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for stream, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        ids[stream] += output.generated_ids
                        arrivals[stream] += [since(start)] * len(output.generated_ids)
        short = [len(stream) for stream in ids if len(stream) != new_tokens]
        if short:
            raise SystemExit(f"expected {new_tokens} ids from every stream, got {short}")
        return arrivals, ids


def trishape() -> genai.SparseAttentionConfig:
    """The first 128 and the last 896 tokens; the last 128 rows of the prompt see everything."""
    return genai.SparseAttentionConfig(
        mode=genai.SparseAttentionMode.TRISHAPE,
        num_last_dense_tokens_in_prefill=128,
        num_retained_start_tokens_in_cache=128,
        num_retained_recent_tokens_in_cache=896,
    )


def eviction(tokens: int) -> genai.CacheEvictionConfig:
    """The first 128, the last 512, and between them those that got most attention in their lifetime."""
    return genai.CacheEvictionConfig(
        start_size=128,
        recent_size=512,
        max_cache_size=tokens,
        aggregation_mode=genai.AggregationMode.NORM_SUM,
    )


def since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


main()
