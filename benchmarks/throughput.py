"""Whole-job throughput of llamaherd and other engines, on the same model and the same token ids.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --jobs news --runs 5 --json out.json --plot out.png

Each run of each engine is a process of its own; engines take turns (A B C, A B C, ...), so that a
machine that changes its speed is unfair to nobody. Loading is not timed. A run during which other
processes kept more than a tenth of a core busy is marked with an asterisk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from jobs import JOBS, Job, LlamaTokenizer, make_job
from make_model import QUANTS, model_path
from peers import PEERS, Setup, installed_peers

OURS = "llamaherd"
DISTURBED_CORES = 0.1
TIMINGS = ("forward", "schedule", "sample", "text")

Run = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """All runs of one engine on one job."""

    peer: str
    job: Job
    runs: list[Run]

    @property
    def seconds(self) -> list[float]:
        """Duration of each run."""
        return [run["seconds"] for run in self.runs]

    @property
    def median(self) -> float:
        """Median duration."""
        return statistics.median(self.seconds)

    @property
    def n_disturbed(self) -> int:
        """Runs during which other processes kept the machine busy."""
        return sum(run["other_cores"] > DISTURBED_CORES for run in self.runs)


def main() -> None:
    """Run the benchmark and report."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    arguments = parse_arguments()
    model = arguments.model or model_path(arguments.quant)
    setup = Setup(arguments.threads, arguments.batch_size, arguments.slots)
    tokenizer = LlamaTokenizer(model)
    peers = arguments.peers or installed_peers()
    print(f"{model.name}, {setup.n_threads} threads, {arguments.runs} runs each, in turn")
    report: dict[str, Any] = {
        "machine": machine_facts(),
        "model": model.name,
        "setup": vars(setup),
        "jobs": {},
    }
    for name in arguments.jobs:
        job = make_job(name, tokenizer, arguments.news_csv)
        measured = measure(job, peers, arguments.runs, model, setup)
        print_job(job, measured, tokenizer)
        report["jobs"][name] = job_report(job, measured, tokenizer)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        plot(report, arguments.plot)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Whole-job throughput of llamaherd and other engines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="a GGUF file; default: one that is made here")
    model.add_argument("--quant", choices=QUANTS, default="Q4_0", help="of the model made here")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="JOB")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, metavar="ENGINE",
        help=f"default: all that are installed of {', '.join(PEERS)}",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=3, help="runs of each engine on each job")
    n_cpus = len(psutil.Process().cpu_affinity() or [0]) if sys.platform == "linux" else None
    n_threads = n_cpus or os.cpu_count() or 2
    parser.add_argument("--threads", type=int, default=n_threads, help="of every engine")
    parser.add_argument("--batch-size", type=int, default=Setup.batch_size, help="of llamaherd")
    parser.add_argument("--slots", type=int, default=Setup.n_slots, help="of xllamacpp")
    parser.add_argument("--news-csv", type=Path, help="news (title, description); default: made up")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--plot", type=Path, help="write a bar chart here (png, svg or pdf)")
    return parser.parse_args()


# --- measuring -----------------------------------------------------------------------------------


def measure(job: Job, peers: list[str], runs: int, model: Path, setup: Setup) -> list[Measured]:
    """Run every engine `runs` times, in turn."""
    results: dict[str, list[Run]] = {peer: [] for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(json.dumps(job.to_json()))
        for i in range(runs):
            for peer in peers:
                progress(f"{job.name}: run {i + 1} of {runs}, {peer}")
                results[peer].append(run_once(peer, model, job_file, setup))
    progress("")
    return [Measured(peer, job, done) for peer, done in results.items()]


def run_once(peer: str, model: Path, job_file: Path, setup: Setup) -> Run:
    """One run in a fresh process."""
    result = job_file.with_name("result.json")
    command = [
        *(sys.executable, str(Path(__file__).with_name("peers.py"))),
        *(peer, str(model), str(job_file), str(result)),
        *("--threads", str(setup.n_threads)),
        *("--batch-size", str(setup.batch_size)),
        *("--slots", str(setup.n_slots)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise SystemExit(f"{peer} failed ({done.returncode}):\n{done.stdout}{done.stderr}"[-4000:])
    run: Run = json.loads(result.read_text())
    return run


def progress(text: str) -> None:
    """Show what is going on, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def machine_facts() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = platform.processor()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "logical_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


# --- reporting -----------------------------------------------------------------------------------


def print_job(job: Job, measured: list[Measured], tokenizer: LlamaTokenizer) -> None:
    """One table per job."""
    print(
        f"\n{job.name}: {len(job.prompts)} prompts, {job.prompt_tokens} tokens "
        f"({job.distinct_prompt_tokens} if nothing is computed twice), "
        f"{job.generated_tokens} generated"
    )
    head = f"{'engine':<20}{'median s':>9}{'min':>8}{'max':>8}{'rows/s':>8}{'tokens/s':>10}"
    print(f"{head}{'ours is':>9}{'equal rows':>12}{'MiB':>7}")
    ours = next((m for m in measured if m.peer == OURS), None)
    for m in measured:
        ratio = equal = ""
        if ours and m is not ours:
            ratio = f"{m.median / ours.median:.2f}x"
            equal = f"{equal_share(m, ours, tokenizer):.0%}"
        n_tokens = job.prompt_tokens + job.generated_tokens
        mebibytes = max(run["peak_rss_bytes"] for run in m.runs) / 2**20
        print(
            f"{m.peer:<20}{m.median:>9.2f}{min(m.seconds):>8.2f}{max(m.seconds):>8.2f}"
            f"{len(job.prompts) / m.median:>8.1f}{n_tokens / m.median:>10.0f}"
            f"{ratio:>9}{equal:>12}{mebibytes:>7.0f}{' ' + '*' * m.n_disturbed}"
        )
    if any(m.n_disturbed for m in measured):
        print("* a run while other processes kept the machine busy")
    if ours:
        print_our_counters(ours)


def print_our_counters(ours: Measured) -> None:
    """Where the time of the median run went, and how much of the prompts was computed."""
    run = sorted(ours.runs, key=lambda run: run["seconds"])[len(ours.runs) // 2]
    counters, job = run["counters"], ours.job
    computed, ideal = counters["computed_prompt_tokens"], job.distinct_prompt_tokens
    print(
        f"  prompt tokens: {counters['prompt_tokens']:.0f}, reused "
        f"{counters['cached_prompt_tokens']:.0f}, computed {computed:.0f} = "
        f"{computed / ideal:.3f} x the least possible {ideal}; "
        f"{counters['batches_processed']:.0f} passes"
    )
    n_tokens = computed + counters["generated_tokens"]
    times = {name: counters[f"{name}_time_s"] for name in TIMINGS}
    shown = ", ".join(f"{name} {1e6 * t / n_tokens:.1f}" for name, t in times.items())
    print(f"  µs per computed token: {shown}; outside the pass {overhead_share(times):.2%}")


def overhead_share(times: dict[str, float]) -> float:
    """Share of the engine's time that is not spent in the model."""
    return 1 - times["forward"] / sum(times.values())


def equal_share(m: Measured, ours: Measured, tokenizer: LlamaTokenizer) -> float:
    """Share of rows with our text. Random weights have near-ties everywhere, so expect some."""
    pairs = zip(texts(m, tokenizer), texts(ours, tokenizer), strict=True)
    same = [theirs == mine for theirs, mine in pairs]
    return sum(same) / len(same)


def texts(m: Measured, tokenizer: LlamaTokenizer) -> list[str]:
    """Answers of the first run; bytes that are no complete character are left out."""
    outputs = m.runs[0]["outputs"]
    plain = [o if isinstance(o, str) else tokenizer.text(o) for o in outputs]
    return [text.replace("\N{REPLACEMENT CHARACTER}", "") for text in plain]


def job_report(job: Job, measured: list[Measured], tokenizer: LlamaTokenizer) -> dict[str, Any]:
    """Everything about one job but the outputs, as plain data."""
    ours = next((m for m in measured if m.peer == OURS), None)
    engines = {}
    for m in measured:
        runs = [{k: v for k, v in run.items() if k != "outputs"} for run in m.runs]
        engines[m.peer] = {"median_s": m.median, "runs": runs}
        if ours and m is not ours:
            engines[m.peer]["ours_is_faster_by"] = m.median / ours.median
            engines[m.peer]["equal_rows"] = equal_share(m, ours, tokenizer)
    return {
        "rows": len(job.prompts),
        "prompt_tokens": job.prompt_tokens,
        "distinct_prompt_tokens": job.distinct_prompt_tokens,
        "generated_tokens": job.generated_tokens,
        "engines": engines,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """One panel per job: seconds for the whole job, shortest bar wins."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    jobs = report["jobs"]
    n_engines = max(len(job["engines"]) for job in jobs.values())
    size = (3.4 * len(jobs) + 1.2, 0.42 * n_engines + 1.1)
    figure, axes = pyplot.subplots(1, len(jobs), figsize=size, sharey=True, squeeze=False)
    for axis, (name, job) in zip(axes[0], jobs.items(), strict=True):
        engines = job["engines"]
        medians = [engine["median_s"] for engine in engines.values()]
        spans = [[run["seconds"] for run in engine["runs"]] for engine in engines.values()]
        errors = [
            [median - min(span) for median, span in zip(medians, spans, strict=True)],
            [max(span) - median for median, span in zip(medians, spans, strict=True)],
        ]
        colors = ["#1f6f8b" if engine == OURS else "#b8c4cc" for engine in engines]
        axis.barh(list(engines), medians, color=colors, height=0.66)
        axis.errorbar(medians, list(engines), xerr=errors, fmt="none", ecolor="#555", lw=1)
        for i, (median, span) in enumerate(zip(medians, spans, strict=True)):
            axis.annotate(
                f"{median:.1f} s", (max(span), i), xytext=(5, 0), va="center",
                textcoords="offset points", fontsize=9,
            )  # fmt: skip
        axis.set_title(f"{name}: {job['rows']} rows", fontsize=10, loc="left")
        axis.set_xlim(0, max(map(max, spans)) * 1.25)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False, labelsize=9)
        axis.set_xlabel("seconds for the job (lower is better)", fontsize=9)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
