"""The command ``speed``: what a method costs, against the limit, equal weighting and the peers."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro
from rich.console import Console
from rich.progress import track

from benchmarks.command import Measurement, Switch
from benchmarks.errors import UserError
from benchmarks.methods import ALL, chosen
from benchmarks.writing import write

if TYPE_CHECKING:
    from benchmarks.speed.timing import Question

Part = Literal["aggregation", "solvers", "steps", "ways", "gathering"]
PARTS: tuple[Part, ...] = ("aggregation", "solvers", "steps", "ways", "gathering")
WITH_MEMORY: tuple[Part, ...] = ("ways", "gathering")
SOLVER_TASKS = (2, 4, 8, 14, 40, 100)

_Several = tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all)")


@dataclass(frozen=True, kw_only=True)
class Speed(Measurement):
    """Measure time and memory, as ratios within one run, beside TorchJD and LibMTL.

    Needs the extra `peers`, or --no-peers. An interrupted run goes on where it stopped.
    """

    name: ClassVar[str] = "speed"
    counts: ClassVar[tuple[str, ...]] = ("tasks", "sizes")

    parts: Annotated[tuple[Part, ...], _Several] = ()
    """Aggregation of given gradients, inner solvers, whole training steps, the memory of the
    ways of gathering task gradients, and their time for models of several shapes."""
    methods: Annotated[tuple[str, ...], _Several] = ()
    """Methods to measure."""
    tasks: tuple[int, ...] = (2, 4, 14, 40)
    """Numbers of tasks, T, of aggregation and of the ways."""
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Numbers of parameters, N, of aggregation and of the ways."""
    most_gigabytes: float = 1.0
    """Larger stacks of task gradients are left out."""
    rounds: int = 7
    """Turns of each contender; the median counts."""
    models: tuple[str, ...] = ()
    """Of the models of several shapes, those whose names begin so (default: all)."""
    peers: bool = True
    """Whether TorchJD and LibMTL take part."""
    times: bool = True
    """Whether programs run, or are only compiled, for the memory in ways and gathering."""
    out: Path = Path("results/speed")
    """Folder for the rows measured and the picture."""
    into: Path | None = None
    """A Markdown file to write the tables into as well, between its two markers."""
    fresh: Switch = False
    """Measure again what --out holds."""
    quiet: Switch = False
    """Print nothing but errors."""

    def check(self) -> None:
        """Raise for every mistake in the options."""
        super().check()
        if not (self.times or {*(self.parts or PARTS)} & {*WITH_MEMORY}):
            raise UserError(
                f"--no-times leaves nothing of --parts {' '.join(self.parts)}: memory is told of "
                f"{' and '.join(WITH_MEMORY)}"
            )

    def work(self) -> None:
        """Measure what is missing, print the tables, draw the picture."""
        from benchmarks.results.cells import provenance
        from benchmarks.speed import peers
        from benchmarks.speed.show import draw, tables

        with_peers = self.peers and self.times
        if with_peers:
            peers.load()
        asked = list(self._questions())
        path = self.out / "rows.jsonl"
        if self.fresh:
            path.unlink(missing_ok=True)
        known = dict(_read(path)) if path.exists() else {}
        # Without the line that an interruption cut short, to which the next would be appended.
        write(path, "".join(_line(key, rows) for key, rows in known.items()))
        rows: list[dict[str, Any]] = []
        console = Console(stderr=True, quiet=self.quiet)
        for question in track(asked, "measuring", console=console):
            key = _key(question, self.times)
            if key not in known:
                answer = [{**question.asked, **row} for row in question.answer()]
                known[key] = [{"part": question.part, **row} for row in answer]
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(_line(key, known[key]))
            rows += known[key]
        made = provenance()
        made["versions"] |= peers.versions() if with_peers else {}
        made["threads"] = peers.threads()
        draw(rows, self.out / "speed.png")
        self.publish(tables(rows, made), beside="Rows, tables and a picture")

    def _questions(self) -> "Iterator[Question]":
        from benchmarks.speed import aggregation, gathering, solvers, steps, ways

        methods = chosen(self.methods or [ALL])
        rounds = self.rounds if self.times else 0
        how: dict[str, Any] = {"rounds": rounds, "with_peers": self.peers}
        most = int(self.most_gigabytes * 1e9)
        parts: dict[Part, Iterator[Question]] = {
            "aggregation": aggregation.questions(
                methods, self.tasks, self.sizes, most_bytes=most, **how
            ),
            "solvers": solvers.questions(SOLVER_TASKS, **how),
            "steps": steps.questions(methods, **how),
            "ways": ways.questions(self.tasks, self.sizes, rounds=rounds, most_bytes=most),
            "gathering": gathering.questions(methods, models=self.models, **how),
        }
        asked = [part for part in self.parts or PARTS if self.times or part in WITH_MEMORY]
        return itertools.chain.from_iterable(parts[part] for part in asked)


def _key(question: "Question", timed: bool) -> str:
    asked = [question.part, question.asked, *([] if timed else ["memory"])]
    return json.dumps(asked, sort_keys=True)


def _line(key: str, rows: list[dict[str, Any]]) -> str:
    return json.dumps({"key": key, "rows": rows}) + "\n"


def _read(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yields what earlier runs measured, and no line that is not whole."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            yield str(entry["key"]), list(entry["rows"])
        except (ValueError, TypeError, KeyError):
            continue
