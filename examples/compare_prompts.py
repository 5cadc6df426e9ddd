"""Compare two ways to ask on rows with known labels, and write a report to look at.

python examples/compare_prompts.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamaherd import explore, report

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
NEWS = [
    ("Sports", "Rovers beat United 2-0 in the final", "The Rovers scored twice to win the cup."),
    ("Business", "Orbex shares rise 4 percent", "Orbex said quarterly profit beat forecasts."),
    ("World", "Ministers meet in Lima", "Officials will try again to agree on a truce."),
    ("Sci/Tech", "A new way to store data", "Researchers built a chip that keeps more data."),
    ("Sports", "Falcons sign a keeper", "The Falcons have a new keeper for the season."),
    ("Business", "Halcyon cuts jobs", "The firm said sales fell by ten percent."),
]


def main(folder: Path) -> None:
    rows = [dict(zip(("gold", "title", "text"), row, strict=True)) for row in NEWS]
    prompts = {"title only": "{title}", "title and text": "{title}. {text}"}
    found = explore(["demo"], rows, folder / "comparison", prompts=prompts, labels=LABELS)
    print(report(found, folder / "report.html", gold="gold", title="Two ways to ask"))
    print(f"look at {folder / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("."))
