"""Quick answers, statistics against other implementations, exploration, and the report."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import random
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pandas
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from cli_process import llamaherd
from llamaherd import (
    ConfigError,
    InputError,
    JobChanged,
    Model,
    PromptOptions,
    classify,
    explore,
    generate_parallel,
    hardware_profile,
    quick_llama,
    report,
    validate,
    widen,
)

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
NEWS = [
    ("Sports", "Rovers beat United 2-0", "The Rovers scored twice to win the cup on Sunday."),
    ("Business", "Orbex shares rise", "Orbex said quarterly profit beat forecasts."),
    ("World", "Ministers meet in Lima", "Officials will try again to agree on a truce."),
    ("Sci/Tech", "New way to store data", "Researchers built a chip that keeps more data."),
    ("Sports", "Falcons sign a keeper", "The Falcons have a new keeper for the season."),
    ("Business", "<script>alert(1)</script> & Co", "Profit of the firm fell 3 percent."),
]


@pytest.fixture
def news(tmp_path: Path) -> Path:
    path = tmp_path / "news.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("class", "title", "text"), *NEWS])
    return path


def test_quick_answers() -> None:
    assert quick_llama("What is the capital of Peru?") == "The capital of Peru is Lima."
    questions = [f"What is the capital of {name}?" for name in ("Peru", "Kenya")]
    assert quick_llama(questions) == [
        "The capital of Peru is Lima.",
        "The capital of Kenya is Nairobi.",
    ]
    assert quick_llama([]) == []
    first = generate_parallel("demo", ["Once upon a time", "Hello"], max_tokens=8)
    assert first == generate_parallel("demo", ["Once upon a time", "Hello"], max_tokens=8)
    assert generate_parallel("demo", ["Hello", ""], max_tokens=2)[1] is None


def test_quick_answers_of_two_models_at_once(tiny_model: Path) -> None:
    """A model that another thread replaces stays open until the calls in work have ended."""
    answers: list[str | None] = []
    questions = [f"Tell me about {i}" for i in range(600)]
    options = {"max_tokens": 60, "ignore_eos": True}
    assert quick_llama("Hello", max_tokens=1)
    long = threading.Thread(target=lambda: answers.extend(quick_llama(questions, **options)))
    long.start()
    n_replaced = 0
    while True:
        quick_llama("ab", model=tiny_model, max_tokens=1)
        if not long.is_alive():
            break
        n_replaced += 1
        assert quick_llama("What is the capital of Peru?") == "The capital of Peru is Lima."
    long.join()
    assert len(answers) == 600 and all(answers)
    if not n_replaced:
        pytest.skip("the long call ended before its model was replaced: the machine is busy")


def test_the_machine() -> None:
    profile = hardware_profile()
    assert 1 <= profile.recommended_threads <= profile.n_cpus
    assert 0 < profile.free_memory_bytes <= profile.memory_bytes
    assert f"num_threads={profile.recommended_threads}" in str(profile)


answers = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=40)


@given(answers, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_statistics_are_those_of_the_libraries(gold: list[str], chance: random.Random) -> None:
    one = [chance.choice("abc") for _ in gold]
    two = [g if chance.random() < 0.7 else "c" for g in gold]
    found = validate({"gold": gold, "one": one, "two": two}, gold="gold", n_bootstrap=50)
    assert found.scores["one"].accuracy == pytest.approx(accuracy_score(gold, one))
    labels = sorted(set(gold))
    assert found.scores["two"].macro_f1 == pytest.approx(
        f1_score(gold, two, labels=labels, average="macro", zero_division=0.0)
    )
    low, high = found.scores["two"].interval
    assert 0 <= low <= high <= 1
    known = lambda values: [v if v in labels else "other" for v in values]  # noqa: E731
    if len({*known(one), *known(two)}) > 1:
        expected = cohen_kappa_score(known(one), known(two))
        assert found.kappas["one", "two"] == pytest.approx(expected, nan_ok=True)
        data = [[("abc" + "o").index(v[0]) for v in known(values)] for values in (one, two)]
        alpha = krippendorff.alpha(np.array(data, float), level_of_measurement="nominal")
        assert found.alpha == pytest.approx(alpha)


@given(
    st.lists(
        st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=3, max_size=3),
        min_size=1,
        max_size=12,
    )
)
def test_alpha_with_gaps_is_that_of_the_library(items: list[list[str | None]]) -> None:
    table = {f"m{i}": [item[i] for item in items] for i in range(3)}
    if not any(answer for item in items for answer in item):
        return
    found = validate(table, n_bootstrap=1).alpha
    paired = [item for item in items if sum(answer is not None for answer in item) > 1]
    if not paired:
        assert math.isnan(found)
    elif len({answer for item in paired for answer in item} - {None}) == 1:
        assert found == 1.0
    else:
        codes = [[math.nan if a is None else "abc".index(a) for a in item] for item in paired]
        expected = krippendorff.alpha(np.array(codes).T, level_of_measurement="nominal")
        assert found == pytest.approx(expected)


def test_free_text_has_as_many_labels_as_rows() -> None:
    n_rows = 3000
    texts = [f"answer {i}" for i in range(n_rows)]
    table = {"gold": texts, "a": texts[:2000] + ["?"] * 1000, "b": texts[::-1]}
    found = validate(table, gold="gold", n_bootstrap=20)
    assert found.scores["a"].accuracy == pytest.approx(2 / 3)
    # A matrix of all pairs would have nine million cells.
    assert found.scores["a"].confusion == []
    assert found.kappas["a", "b"] == pytest.approx(0.0, abs=0.001)


def test_by_hand() -> None:
    table = {
        "gold": ["yes", "yes", "no", "no", None],
        "a": [" YES ", "no", "no", "perhaps", "yes"],
        "b": ["yes", None, "no", "", "no"],
    }
    found = validate(table, gold="gold")
    assert (found.n_items, found.n_gold, found.labels) == (5, 4, ("no", "yes"))
    a, b = found.scores["a"], found.scores["b"]
    assert (a.accuracy, a.n_missing, a.n_other) == (0.5, 0, 1)
    assert (b.accuracy, b.n_missing, b.n_other) == (0.5, 2, 0)
    # Gold no: one no, one other. Gold yes: one no, one yes.
    assert [list(row) for row in a.confusion] == [[1, 0, 1, 0], [1, 1, 0, 0]]
    assert a.classes["yes"].precision == 1.0 and a.classes["yes"].recall == 0.5
    # Both answered rows 0, 2 and 4; they agree on the first two.
    assert found.kappas["a", "b"] == pytest.approx(0.4)
    assert found.agreement == pytest.approx(2 / 3)
    assert json.dumps(found.to_dict())
    assert "a: accuracy 50.0%" in str(found)


@pytest.mark.parametrize("make", [polars.DataFrame, pandas.DataFrame, lambda rows: rows])
def test_tables_of_every_kind(make: Any) -> None:
    rows = [{"g": "x", "m": "x"}, {"g": "y", "m": "x"}, {"g": "y", "m": None}]
    assert validate(make(rows), ["m"], gold="g").scores["m"].accuracy == pytest.approx(1 / 3)


def test_labels_that_frames_write_as_numbers() -> None:
    # A missing value makes a whole column floats.
    table = pandas.DataFrame({"gold": [1, 2, 1], "a": [1, 2, None]})
    score = validate(table, gold="gold").scores["a"]
    assert (score.accuracy, score.n_missing, score.n_other) == (pytest.approx(2 / 3), 1, 0)
    arrays = {"gold": np.array([1, 2]), "a": np.array([1.0, 2.0], dtype=np.float32)}
    assert validate(arrays, gold="gold").scores["a"].accuracy == 1.0


def test_intervals_are_those_of_resampled_items() -> None:
    right = [True] * 60 + [False] * 40
    table = {"gold": ["x"] * 100, "a": ["x" if r else "y" for r in right]}
    low, high = validate(table, gold="gold", labels=["x", "y"]).scores["a"].interval
    chance = np.random.default_rng(5)
    means = chance.choice(right, (2000, 100)).mean(axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    assert [low, high] == pytest.approx(expected, abs=0.02)
    again = validate(table, gold="gold", labels=["x", "y"]).scores["a"].interval
    assert (low, high) == again


LONG = [
    {"item": 1, "who": "ada", "answer": "x", "gold": "x"},
    {"item": 1, "who": "ben", "answer": "y", "gold": "x"},
    {"item": 2, "who": "ada", "answer": "y", "gold": "y"},
]


@pytest.mark.parametrize("make", [polars.DataFrame, pandas.DataFrame, lambda rows: rows])
def test_long_tables(make: Any) -> None:
    columns = {"item": "item", "annotator": "who", "answer": "answer", "gold": "gold"}
    wide = widen(make(LONG), **columns)
    assert wide == [
        {"item": 1, "gold": "x", "ada": "x", "ben": "y"},
        {"item": 2, "gold": "y", "ada": "y", "ben": None},
    ]
    found = validate(wide, ["ada", "ben"], gold="gold")
    assert found.scores["ada"].accuracy == 1.0
    assert (found.scores["ben"].accuracy, found.scores["ben"].n_missing) == (0.0, 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"item": 1, "who": "ada", "answer": "y", "gold": "x"}, "more than once"),
        ({"item": 2, "who": "ben", "answer": "y", "gold": "x"}, "two gold labels"),
        ({"item": 2, "who": "gold", "answer": "y", "gold": "y"}, "like the column"),
    ],
)
def test_long_tables_that_contradict_themselves(row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        widen([*LONG, row], item="item", annotator="who", answer="answer", gold="gold")


def test_perfect_and_hopeless_agreement() -> None:
    same = validate({"a": ["x", "x", "x"], "b": ["x", "x", "x"]})
    assert same.kappas["a", "b"] == 1.0 and same.alpha == 1.0 and same.agreement == 1.0
    apart = validate({"a": ["x", None], "b": [None, "y"]})
    assert math.isnan(apart.kappas["a", "b"]) and math.isnan(apart.agreement)
    assert all(map(math.isnan, (apart.alpha, *apart.alpha_interval)))
    # JSON knows no NaN.
    assert json.loads(json.dumps(apart.to_dict(), allow_nan=False))["alpha"] is None


@pytest.mark.parametrize(
    ("table", "options", "error", "said"),
    [
        ({"a": ["x"]}, {"gold": "g"}, InputError, "no column 'g'; there are: a"),
        ({"a": ["x"], "g": [None]}, {"gold": "g"}, InputError, "no label"),
        ({"g": ["x"]}, {"gold": "g"}, ConfigError, "no annotator"),
        ({"a": []}, {}, InputError, "no"),
        ({"a": ["x"], "b": ["x", "y"]}, {}, InputError, "different lengths"),
        ({"a": ["x"]}, {"confidence": 2}, ConfigError, "confidence"),
        ({"a": ["x"]}, {"n_bootstrap": 0}, ConfigError, "n_bootstrap"),
        ({"a": ["x"]}, {"annotators": ["a", "a"]}, ConfigError, "'a' more than once"),
        (
            {"a": ["x", "x"], "g": ["x", "z"]},
            {"gold": "g", "labels": ["x", "y"]},
            InputError,
            "'g' has 'z' in row 1 .* none of the labels: x, y",
        ),
        (["x"], {}, InputError, "mapping"),
    ],
)
def test_what_cannot_be_validated(
    table: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        validate(table, **options)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'llamaherd[analysis]'")):
        validate({"a": ["x"]})


def test_exploring_goes_on_where_it_was(tmp_path: Path, news: Path) -> None:
    prompts = {"title": "{title}", "all": "{title}. {text}"}

    def run(**options: Any) -> Any:
        options = {"prompts": prompts, "labels": LABELS, **options}
        return explore(["demo"], news, tmp_path / "out", **options)

    first = run()
    assert first.names == ["title", "all"]
    assert [v.summary.n_done for v in first.variants] == [6, 6]
    assert [v.summary.n_done for v in run().variants] == [0, 0]
    wide, long = first.wide(), first.long()
    assert len(wide) == 6 and len(long) == 12
    assert wide[0]["class"] == "Sports" and wide[0]["all"] in LABELS
    assert 0 < wide[0]["all probability"] <= 1
    assert {row["variant"] for row in long} == {"title", "all"}
    with pytest.raises(JobChanged):
        run(labels=["Good", "Bad"])
    with pytest.raises(ConfigError, match="iterator"):
        explore(["demo"], iter([]), tmp_path / "out2")
    answers = explore({"mine": "demo"}, ["What is the capital of Peru?"], tmp_path / "out3")
    assert answers.wide()[0]["mine"] == "The capital of Peru is Lima."


def test_variants_differ_in_instructions_and_examples(tmp_path: Path, news: Path) -> None:
    """Each is a job with settings of its own, which goes on like any other."""
    shown = [("Falcons win", "Sports"), ("Orbex profit falls", "Business")]

    def run(**options: Any) -> Any:
        ways = {
            "plain": "{title}",
            "told": PromptOptions(prompt="{title}", instructions="Topic of {text}? {labels}:"),
            "shown": PromptOptions(prompt="{title}", **{"examples": shown, **options}),
        }
        return explore(["demo"], news, tmp_path / "out", prompts=ways, labels=LABELS)

    found = run()
    assert found.names == ["plain", "told", "shown"]
    assert [v.settings["instructions"] for v in found.variants] == [
        *[None, "Topic of {text}? {labels}:", None]
    ]
    # As the classifier itself does it.
    titles = [title for _, title, _ in NEWS]
    for column, same in (("plain", {}), ("shown", {"examples": shown})):
        labels = [row.label for row in classify("demo", titles, LABELS, **same)]
        assert [row[column] for row in found.wide()] == labels
    assert [v.summary.n_done for v in run().variants] == [0, 0, 0]
    with pytest.raises(JobChanged, match="examples"):
        run(examples=shown[:1])
    source = report(found, tmp_path / "report.html") and (tmp_path / "report.html").read_text()
    assert "Falcons win → Sports" in source and "Topic of {text}?" in source


def test_variants_differ_in_system_messages(tmp_path: Path) -> None:
    """Answers have them, and examples as turns before the row, also before a row's own messages."""
    rows = [{"messages": [{"role": "user", "content": "And of Kenya?"}]}]
    example = ("What is the capital of Peru?", "Lima.")
    ways = {
        "plain": PromptOptions(system="", examples=()),
        "told": PromptOptions(examples=()),
        "shown": PromptOptions(examples=[example]),
    }
    options: dict[str, Any] = {"system": "Be brief.", "examples": [("Hi", "Hello"), example]}
    found = explore(["demo"], rows, tmp_path / "out", prompts={**ways, "all": PromptOptions()},
                    **options)  # fmt: skip
    system = [{"role": "system", "content": "Be brief."}]
    turns = [{"role": "user", "content": example[0]}, {"role": "assistant", "content": example[1]}]
    greeting = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    sent = [[], system, system + turns, system + greeting + turns]
    with Model.load("demo") as model:
        lengths = [len(model.encode([*head, *rows[0]["messages"]])) for head in sent]
    assert [row["prompt_tokens"] for row in found.long()] == lengths


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"examples": "x"}, "list of pairs"),
        ({"examples": [("x",)]}, "pairs"),
        ({"prompt": "no column"}, "no column"),
        ({"system": 1}, "PromptOptions.system is 1"),
        ({"examples": [("x", "Weather")]}, "'b' has an example of 'Weather'; labels are: World"),
        ({"system": "Be brief."}, "'b' has a system message, which labels do not use"),
    ],
)
def test_ways_to_ask_that_cannot_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """They are refused before the first variant runs."""
    with pytest.raises(ConfigError, match=said):
        ways = {"a": "{title}", "b": PromptOptions(**options)}
        explore(["demo"], [{"title": "x"}], tmp_path / "no", prompts=ways, labels=LABELS)
    with pytest.raises(ConfigError, match="instructions, which are for labels"):
        explore(["demo"], ["x"], tmp_path / "no", instructions="Topic?")
    assert not (tmp_path / "no").exists()


def test_every_variant_keeps_its_name_file_and_column(tmp_path: Path) -> None:
    rows = [{"title": title, "label": label} for label, title, _ in NEWS]
    prompts = {"title": "{title}", "shouted": "{title}!"}
    found = explore(["demo"], rows, tmp_path / "out", prompts=prompts, labels=LABELS)
    first = found.wide()[0]
    assert first["title"] in LABELS and first["input_title"] == NEWS[0][1]
    # The column is called like a result, but it is the table's own.
    assert first["label"] == "Sports"
    assert report(found, tmp_path / "page.html", gold="label").n_gold == len(NEWS)
    with pytest.raises(ConfigError, match="also the name of a variant"):
        report(found, tmp_path / "page.html", gold="title")
    for wrong, said in (
        ({"models": ["a/same.gguf", "b/same.gguf"]}, "both be called 'same'"),
        ({"models": {"a b": "demo", "A_b": "demo"}}, "would share the file A_b.jsonl"),
    ):
        with pytest.raises(ConfigError, match=said):
            explore(source=rows, directory=tmp_path / "no", **wrong)
    assert not (tmp_path / "no").exists()


def test_speed_counts_all_the_time_and_outlives_damage(tmp_path: Path) -> None:
    rows = [{"title": title} for _, title, _ in NEWS]

    def run(n_rows: int) -> Any:
        options = {"prompts": "{title}", "labels": LABELS, "accept_changes": True}
        return explore(["demo"], rows[:n_rows], tmp_path / "out", **options).variants[0]

    first = run(4)
    assert first.speed[0] == (0.0, 0)
    assert first.speed[-1][1] == 4
    # Rows end in bursts; the time before the first one counts too.
    assert first.summary.seconds / 2 < first.speed[-1][0] <= first.summary.seconds
    second = run(6)
    assert second.speed[-1][1] == 6 and second.speed[-1][0] > first.speed[-1][0]
    (tmp_path / "out" / "demo.jsonl.speed.json").write_text("[[0.0, ")
    assert run(6).summary.n_done == 0


class Page(html.parser.HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_without_a_network(tmp_path: Path, news: Path) -> None:
    found = explore(
        ["demo"],
        news,
        tmp_path / "out",
        prompts={"title": "{title}", "all": "{title}. {text}"},
        labels=LABELS,
    )
    target = tmp_path / "report.html"
    statistics = report(found, target, gold="class", title="A <b>title</b>")
    source = target.read_text()
    page = Page(source)
    assert "script" not in page.tags and "link" not in page.tags and "b" in page.tags
    assert all(reference.startswith("#") for reference in page.references)
    assert not re.search(r"https?://|@import|url\(", source)
    assert {"accuracy", "confusion", "agreement", "confidence", "speed", "settings"} <= set(
        page.ids
    )
    # Two histograms and the speed; six rows are too few to say how probabilities are calibrated.
    assert page.tags.count("svg") == 2 + 1
    assert "Calibration" not in page.text
    assert "A <b>title</b>" in page.text
    shown = f"{100 * statistics.scores['all'].accuracy:.1f} %"
    assert shown in page.text


def test_confidence_out_of_a_file(tmp_path: Path) -> None:
    # In a file, probabilities are text; a row without a gold label says nothing about them.
    rows = [
        {"gold": "x", "m": "x" if i % 4 else "y", "m probability": str(0.5 + i / 100)}
        for i in range(40)
    ]
    target = tmp_path / "report.html"
    report([*rows, {"m": "x", "m probability": "0.1"}], target, gold="gold", annotators=["m"])
    page = Page(target.read_text())
    assert "Calibration" in page.text and page.tags.count("circle") == 4
    assert "70 % sure on average, right in 75 %" in " ".join(page.text.split())


def test_many_labels_and_long_answers_stay_readable(tmp_path: Path) -> None:
    rows = [{"gold": "label 1", "m": "word " * 10_000}]
    rows += [{"gold": f"label {i % 60}", "m": f"label {i % 59}"} for i in range(240)]
    target = tmp_path / "report.html"
    report(rows, target, gold="gold")
    page = Page(target.read_text())
    assert "The 20 most frequent of 60 labels" in page.text
    assert "The most frequent mistakes" in page.text and "…" in page.text
    assert len(target.read_bytes()) < 60_000


EVIL = "</td></title></style></svg><script>x</script><img src=x onerror=y>"


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=25, deadline=None)
def test_data_cannot_break_out_of_the_page(tmp_path_factory: Any, text: str, label: str) -> None:
    name = f"m{label}{EVIL}"
    rows = [
        {"note": EVIL + text, text + EVIL: text, "gold": gold, name: answer, "n": "a"}
        for gold, answer in [("a", EVIL + text), ("b", "b"), (label + EVIL, None)]
    ]
    # Enough of them for every chart.
    rows = [{**row, f"{name} probability": 0.5, "n probability": 0.9} for row in rows * 7]
    target = tmp_path_factory.mktemp("page") / "report.html"
    report(rows, target, gold="gold", annotators=[name, "n"], title=EVIL)
    page = Page(target.read_text())
    assert "Calibration" in page.text and "<script>" in page.text
    assert not {"script", "img"} & set(page.tags)


def test_names_and_prompts_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    prompts = {f"{EVIL} 1": "{text}" + EVIL, f"{EVIL} 2": EVIL + "{text}"}
    rows = [{"text": text, EVIL: EVIL} for _, _, text in NEWS]
    found = explore(["demo"], rows, tmp_path / "out", prompts=prompts, labels=["a", EVIL])
    report(found, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert {"speed", "settings", "confidence"} <= set(page.ids)
    assert page.text.count(EVIL) > 10
    assert not {"script", "img"} & set(page.tags)


def test_the_compare_command(tmp_path: Path, news: Path) -> None:
    command = [
        *["compare", str(news), "-o", str(tmp_path / "out"), "--labels", ",".join(LABELS)],
        *["--prompt", "{title}", "--prompt", "{title}. {text}", "--gold", "class"],
    ]
    done = llamaherd(*command)
    assert done.returncode == 0, done.stderr
    assert "prompt 1: accuracy" in done.stderr and "kappa" in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"long.csv", "wide.csv", "report.html", "prompt_1.jsonl"} <= names
    with (tmp_path / "out" / "wide.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [row[0] for row in NEWS]
    wide = str(tmp_path / "out" / "wide.csv")
    columns = ["--annotators", "prompt 1,prompt 2", "--gold", "class"]
    again = llamaherd("compare", wide, "-o", str(tmp_path / "again"), *columns)
    assert again.returncode == 0, again.stderr
    assert done.stderr.splitlines()[:4] == again.stderr.splitlines()[:4]
    assert "Confidence" in Page((tmp_path / "again" / "report.html").read_text()).text


def test_the_compare_command_names_failed_rows(tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text('{"q": "Hello", "gold": "x"}\n{"gold": "x"}\n')
    command = ["compare", str(table), "-o", str(tmp_path / "out"), "--gold", "gold"]
    done = llamaherd(*command, "--prompt", "{q}")
    assert done.returncode == 2
    assert "no column 'q'" in done.stderr and "--retry-failed" in done.stderr
    assert "1 missing" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "two models or two prompts"),
        (["--gold", "clas"], "no column 'clas'; there are: class"),
        (["--gold", "class", "--labels", "World,Sports"], "'Business' in row 1"),
        (["--annotators", "a", "-m", "demo"], "runs no model"),
        (["--annotators", "nobody"], "no column 'nobody'"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(
    tmp_path: Path, news: Path, options: list[str], said: str
) -> None:
    done = llamaherd("compare", str(news), "-o", str(tmp_path / "x"), *options)
    assert done.returncode == 1 and said in " ".join(done.stderr.split())
    assert not list(tmp_path.glob("x/*.jsonl"))
