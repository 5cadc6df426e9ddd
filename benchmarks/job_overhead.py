"""What a job costs beside its engine, and how good its labels are.

    python benchmarks/job_overhead.py                         # 100,000 short rows, demo model
    python benchmarks/job_overhead.py --labelled news.csv     # columns class, title, description

The first compares a job's wall time with the time in which its engine had work and with the same
prompts through `generate_iter`, and its resident memory at 1,000 rows and at the end. The second
labels a CSV by classification and prints rows per second, accuracy and the confusion matrix.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from llamaherd import Classifier, GenerationConfig, ParallelProcessor
from llamaherd.jobs.job import Job
from llamaherd.jobs.prompts import PromptMaker, RowTemplate, TextMaker
from llamaherd.jobs.work import Answers, Labels, Outcome

LABELS = ("World", "Sports", "Business", "Sci/Tech")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--labelled", type=Path, help="CSV with class, title and description")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--calibrate", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.labelled:
            label(Path(folder), arguments)
        else:
            measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    source = folder / "in.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "title"])
        writer.writerows([i, f"Story number {i} of the day"] for i in range(arguments.rows))
    process = psutil.Process()
    memory: list[int] = []
    n_done = 0

    def note(outcome: Outcome) -> None:
        nonlocal n_done
        n_done += 1
        if n_done in (1000, arguments.rows):
            memory.append(process.memory_info().rss)

    with ParallelProcessor(arguments.model, max_batch_size=arguments.batch_size) as processor:
        template = RowTemplate.braces("Classify: {title}")
        prompts = PromptMaker(processor.model, template, system=None, raw=False)
        work = Answers(processor, prompts, GenerationConfig.greedy(max_tokens=1))
        before = processor.stats().busy_time_s
        began = time.perf_counter()
        summary = Job(source, folder / "out.jsonl").run(processor.model, work, note)
        wall = time.perf_counter() - began
        busy = processor.stats().busy_time_s - before
    with ParallelProcessor(arguments.model, max_batch_size=arguments.batch_size) as processor:
        texts = (f"Classify: Story number {i} of the day" for i in range(arguments.rows))
        chats = ([{"role": "user", "content": text}] for text in texts)
        began = time.perf_counter()
        for _ in processor.generate_iter(chats, GenerationConfig.greedy(max_tokens=1)):
            pass
        bare = time.perf_counter() - began
    assert summary.n_done == arguments.rows and summary.n_failed == 0
    print(
        f"{arguments.rows} rows in {wall:.1f} s ({arguments.rows / wall:.0f} rows/s): engine "
        f"{busy:.1f} s, everything else {wall - busy:.1f} s ({(wall - busy) / wall:.1%})"
    )
    print(f"the same prompts without a job: {bare:.1f} s, so the job costs {wall / bare - 1:.1%}")
    print(f"resident memory {memory[0] >> 20} MiB at 1,000 rows, {memory[-1] >> 20} at the end")


def label(folder: Path, arguments: argparse.Namespace) -> None:
    """Label a CSV and compare with its own labels."""
    output = folder / "out.jsonl"
    with ParallelProcessor(arguments.model, max_batch_size=arguments.batch_size) as processor:
        instructions = (
            "Classify this news article into exactly one category: World, Sports, Business, or "
            "Sci/Tech. Respond with only the category name.\n\n{text}\n\nCategory:"
        )
        classifier = Classifier(
            processor, LABELS, instructions=instructions, calibrate=arguments.calibrate
        )
        text = TextMaker(RowTemplate.braces("Title: {title}\nDescription: {description}"))
        summary = Job(arguments.labelled, output).run(
            processor.model, Labels(classifier, text, {"labels": list(LABELS)})
        )
    pairs: Counter[tuple[str, str]] = Counter()
    for line in output.open():
        record = json.loads(line)
        pairs[record["class"], record["label"]] += 1
    n_rows = sum(pairs.values())
    n_right = sum(n for (gold, got), n in pairs.items() if gold == got)
    print(
        f"{n_rows} rows in {summary.seconds:.1f} s: {n_rows / summary.seconds:.0f} rows/s, "
        f"{summary.prompt_tokens / summary.seconds:.0f} prompt tokens/s; "
        f"accuracy {n_right / n_rows:.1%}"
    )
    print(f"{'is, labelled as':18}" + "".join(f"{name:>10}" for name in LABELS))
    for gold in LABELS:
        print(f"{gold:18}" + "".join(f"{pairs[gold, got]:>10}" for got in LABELS))


if __name__ == "__main__":
    main()
