"""Measures OpenVINO GenAI (continuous batching, its own defaults) and prints one line as `Measurement` in ../prompts.ts.

Runs in the run environment. Usage: openvino-genai.py --model FOLDER [flags of ../prompts.ts] [--kv-precision f16]
"""

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
    options = parser.parse_args()

    start = time.perf_counter()
    engine = Engine(options.model, options.threads, options.kv_precision)
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
    line = {
        "engine": f"OpenVINO GenAI{kv}",
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

    def __init__(self, folder: str, threads: int, kv_precision: str | None) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB at most; the cache grows as it is needed
        scheduler.enable_prefix_caching = False
        properties: dict[str, object] = {"INFERENCE_NUM_THREADS": threads}
        if kv_precision:
            properties["KV_CACHE_PRECISION"] = kv_precision
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
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


def since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


main()
