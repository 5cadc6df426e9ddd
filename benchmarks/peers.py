"""The engines that are compared, behind one interface, each run in a process of its own.

    python benchmarks/peers.py ENGINE MODEL.gguf JOB.json RESULT.json

loads the model, runs the job once and writes outputs, seconds and counters. Loading and a short
warm-up on other tokens lie outside the timing. Every engine is set up as its documentation
advises for this kind of work, with the settings that were fastest here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from jobs import Job

Outputs = list[list[int]] | list[str]


@dataclass(frozen=True)
class Setup:
    """What the caller of a benchmark may choose."""

    n_threads: int = 2
    batch_size: int = 32
    n_slots: int = 16


class Peer(Protocol):
    """One engine."""

    def load(self, model_path: Path, job: Job, setup: Setup) -> None:
        """Load the model, with room for the rows of `job` and no more."""

    def run(self, job: Job) -> Outputs:
        """Token ids (or text, where the engine gives nothing else) generated for each prompt."""

    def counters(self) -> dict[str, float]:
        """What the engine counted since it was loaded."""

    def close(self) -> None:
        """Free everything."""


def longest_row(job: Job) -> int:
    """Tokens of the longest prompt with its answer."""
    return max(len(p) + n for p, n in zip(job.prompts, job.max_tokens, strict=True))


class LlamaCppPython:
    """llama-cpp-python's high-level API, one prompt after the other.

    `Llama.generate` keeps what the prompt shares with the one before it in the KV cache.
    """

    def load(self, model_path: Path, job: Job, setup: Setup) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            str(model_path),
            n_ctx=longest_row(job) + 8,
            n_batch=512,
            n_threads=setup.n_threads,
            n_threads_batch=setup.n_threads,
            flash_attn=True,
            verbose=False,
        )

    def run(self, job: Job) -> Outputs:
        return [self._answer(p, n) for p, n in zip(job.prompts, job.max_tokens, strict=True)]

    def _answer(self, prompt: list[int], n: int) -> list[int]:
        # generate() rather than create_completion(): it takes ids, ends nowhere by itself, and
        # saves the handling of text and of stop strings.
        tokens = self._llama.generate(prompt, temp=0.0)
        return [next(tokens) for _ in range(n)]

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._llama.close()


class XLlamaCpp:
    """llama-server's engine in this process, through xllamacpp's prebuilt wheel."""

    def load(self, model_path: Path, job: Job, setup: Setup) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model_path)
        params.n_parallel = setup.n_slots
        # Without a unified cache each slot has an equal part, rounded up to 256 by llama.cpp.
        params.n_ctx = setup.n_slots * -(-(longest_row(job) + 8) // 256) * 256
        params.kv_unified = False
        params.n_batch = 2048
        params.cpuparams.n_threads = setup.n_threads
        params.cpuparams_batch.n_threads = setup.n_threads
        params.cache_prompt = True
        params.cache_ram_mib = 0
        params.verbosity = -1
        self._server = xllamacpp.Server(params)
        self._cached = 0

    def run(self, job: Job) -> Outputs:
        # As many requests in flight as there are rows, so that no slot ever waits for one.
        with ThreadPoolExecutor(len(job.prompts)) as pool:
            return list(pool.map(self._answer, job.prompts, job.max_tokens))

    def _answer(self, prompt: list[int], n: int) -> str:
        answer = self._server.handle_completions(
            {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True}
        )
        if "choices" not in answer or answer["usage"]["completion_tokens"] != n:
            raise RuntimeError(f"unexpected answer: {answer}")
        self._cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return str(answer["choices"][0]["text"])

    def counters(self) -> dict[str, float]:
        return {"cached_prompt_tokens": self._cached}

    def close(self) -> None:
        del self._server


class OpenVinoGenAi:
    """OpenVINO GenAI's continuous batching, with prefix caching, fed the same token ids.

    Its hint f32 keeps the logits free of bfloat16 rounding; activations are quantized to 8 bits
    either way, which is where its speed comes from. Keys and values are 8 bits by default.
    Measured on random weights, its greedy tokens are those of llama.cpp in F16 and agree with the
    float32 reference as often as llama.cpp's do in Q8_0 and Q4_0, but rarely in Q4_K_M.
    """

    def load(self, model_path: Path, job: Job, setup: Setup) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = max(setup.batch_size, len(job.prompts))
        # Room for all rows, so that none is ever preempted.
        scheduler.num_kv_blocks = sum(
            -(-(len(p) + n) // 32) + 1 for p, n in zip(job.prompts, job.max_tokens, strict=True)
        )
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": setup.n_threads,
        }
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(model_path), scheduler, "CPU", properties
        )

    def run(self, job: Job) -> Outputs:
        import openvino

        ids = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in job.prompts]
        results = self._pipeline.generate(ids, [self._config(n) for n in job.max_tokens])
        answers = [list(result.m_generation_ids[0]) for result in results]
        if [len(answer) for answer in answers] != job.max_tokens:
            raise RuntimeError("an answer does not have as many tokens as were asked for")
        return answers

    def _config(self, n: int) -> Any:
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = n
        config.ignore_eos = True
        config.do_sample = False
        return config

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        del self._pipeline


class Llamaherd:
    """This library, on its own CPU engine."""

    engine = "native"

    def load(self, model_path: Path, job: Job, setup: Setup) -> None:
        from llamaherd import Model, ParallelProcessor

        self._processor = ParallelProcessor(
            Model.load(model_path, engine=self.engine),
            num_threads=setup.n_threads,
            max_batch_size=setup.batch_size,
        )

    def run(self, job: Job) -> Outputs:
        from llamaherd import BatchGenerationConfig

        by_length = {
            n: BatchGenerationConfig(max_tokens=n, temperature=0, ignore_eos=True)
            for n in set(job.max_tokens)
        }
        configs = [by_length[n] for n in job.max_tokens]
        results = self._processor.batch_generate(job.prompts, configs, progress=False)
        for result in results:
            if not result.success:
                raise RuntimeError(f"row {result.index}: {result.error}")
        return [list(result.tokens) for result in results]

    def counters(self) -> dict[str, float]:
        return asdict(self._processor.stats())

    def close(self) -> None:
        self._processor.close()


class LlamaherdLlamaCpp(Llamaherd):
    """This library, on llama.cpp."""

    engine = "llama.cpp"


class OtherLoad:
    """Cores that other processes keep busy: engines whose threads spin suffer much from that."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._others = self._cpu_seconds()

    def cores(self) -> float:
        """Mean number of cores since the start."""
        seconds = time.perf_counter() - self._started
        return max(0.0, (self._cpu_seconds() - self._others) / seconds)

    @staticmethod
    def _cpu_seconds() -> float:
        times = psutil.cpu_times()
        own = psutil.Process().cpu_times()
        stolen = getattr(times, "steal", 0.0)
        return float(times.user + times.system + stolen - own.user - own.system)


PEERS: dict[str, type[Peer]] = {
    "llamaherd": Llamaherd,
    "llamaherd-llama.cpp": LlamaherdLlamaCpp,
    "llama-cpp-python": LlamaCppPython,
    "openvino-genai": OpenVinoGenAi,
    "xllamacpp": XLlamaCpp,
}

# The package that brings each engine; a peer that is not installed is left out.
PACKAGES = {name: name.removesuffix("-llama.cpp") for name in PEERS}


def is_installed(peer: str) -> bool:
    """Whether an engine's package is there."""
    try:
        importlib.metadata.version(PACKAGES[peer])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def installed_peers() -> list[str]:
    """Engines that can be compared here; those that cannot are named on stderr."""
    for name in PEERS:
        if not is_installed(name):
            print(f"left out: {name} (pip install {PACKAGES[name]})", file=sys.stderr)
    return [name for name in PEERS if is_installed(name)]


def warm_up_job(job: Job) -> Job:
    """A few rows that share no prefix with the job's: pages are read, threads are started."""
    rows = [[3 + i, *reversed(job.prompts[i][-8:])] for i in range(min(2, len(job.prompts)))]
    return Job("warm-up", rows, [2] * len(rows))


def run_peer(name: str, model_path: Path, job: Job, setup: Setup) -> dict[str, Any]:
    """Run `job` once on a fresh engine in this process."""
    peer = PEERS[name]()
    started = time.perf_counter()
    peer.load(model_path, job, setup)
    peer.run(warm_up_job(job))
    before = peer.counters()
    loaded = time.perf_counter()
    others = OtherLoad()
    outputs = peer.run(job)
    seconds = time.perf_counter() - loaded
    other_cores = others.cores()
    counters = {key: value - before[key] for key, value in peer.counters().items()}
    peer.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "outputs": outputs,
        "seconds": seconds,
        "other_cores": other_cores,
        "load_seconds": loaded - started,
        "peak_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "counters": counters,
        "version": importlib.metadata.version(PACKAGES[name]),
    }


def main() -> None:
    """Entry point of the process of one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("job", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--threads", type=int, default=Setup.n_threads)
    parser.add_argument("--batch-size", type=int, default=Setup.batch_size)
    parser.add_argument("--slots", type=int, default=Setup.n_slots)
    arguments = parser.parse_args()
    setup = Setup(arguments.threads, arguments.batch_size, arguments.slots)
    job = Job(**json.loads(arguments.job.read_text()))
    result = run_peer(arguments.peer, arguments.model, job, setup)
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
