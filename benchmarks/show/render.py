"""A report as Markdown, and as one HTML page that needs nothing else."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from benchmarks.errors import UserError
from benchmarks.results.gather import Lines, Results, SuiteResults
from benchmarks.show import tell
from benchmarks.show.heatmap import heatmap
from benchmarks.show.table import MOST_COLUMNS, results_table

LEGEND = (
    "± is the standard deviation over seeds. Δm is the mean drop against single-task networks in "
    "percent, over all metrics alike, less is better; Δp, where tasks have several metrics, the "
    "mean gain over tasks of the mean over a task's metrics, more is better. Rank is the mean "
    "place over metrics and seeds. Against equal weighting: the difference of the mean metric, "
    "positive is better, with the half width of its 95 % confidence interval; * marks what is "
    "larger than noise. Rate and epoch are those chosen on the validation split. Time is per step, "
    "against equal weighting on the same machine."
)

_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mtl_optax benchmarks</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0072B2;
  --better: #00734f; --worse: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --accent: #6cb8e8; --better: #4fd1a5; --worse: #ff9a56; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; } h1 { margin-bottom: .5rem; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
a { color: var(--accent); } p, li { max-width: 46rem; overflow-wrap: anywhere; }
nav { position: sticky; top: 0; z-index: 2; background: Canvas; padding: .5rem 0;
  display: flex; gap: 1.2rem; overflow-x: auto; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
h2 { scroll-margin-top: 3rem; } nav + h2 { border-top: 0; margin-top: 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid var(--line); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: Canvas; }
tr:nth-child(even) td { background: var(--soft); }
tr:nth-child(even) td:first-child {
  background: linear-gradient(var(--soft), var(--soft)), Canvas; }
td.better { color: var(--better); font-weight: 600; }
td.worse { color: var(--worse); font-weight: 600; }
p:has(img) { max-width: none; }
img { max-width: 100%; background: white; border-radius: 6px; }
summary { cursor: pointer; color: var(--accent); padding: .25rem 0; }
.problem { border-left: 4px solid var(--worse); padding-left: .75rem; }
.verdict { border-left: 4px solid var(--accent); padding-left: .75rem; }
.note { font-size: 14px; opacity: .8; }
</style></head><body>
<h1>mtl_optax benchmarks</h1>
$problems
<nav>$contents</nav>
$overview
$suites
<p class="note">$legend</p>
</body></html>
"""
)


def markdown(results: Results) -> str:
    """A heading, a table and notes for each suite."""
    parts = []
    for suite in results.suites:
        parts += [f"### {suite.name}", ""]
        if (simple := tell.baseline(suite.cells)) is not None:
            parts += [simple, ""]
        parts += [tell.protocol(suite), ""]
        parts += markdown_table(results_table(suite.cells, each_metric=_few(suite)))
        parts += ["", tell.verdict(suite.cells), ""]
        parts += [f"- {caveat}" for caveat in tell.caveats(suite.cells)]
        papers = tell.papers_table(suite.cells)
        if papers is not None:
            parts += ["", *markdown_table(papers[0]), "", *(f"- {note}" for note in papers[1])]
        for folder, table in suite.sweeps.items():
            parts += ["", f"{folder.name}, mean metric on the test split:", ""]
            parts += markdown_table(table)
        parts += ["", *(f"Made by {text} ({count})." for text, count in suite.provenance.items())]
        parts += [tell.effort(suite.cells), ""]
    if len(results.suites) > 1:
        parts += ["### All suites", "", "Mean rank, and Δm % in brackets.", ""]
        parts += [*markdown_table(tell.overview(results.suites)), ""]
    parts += [LEGEND, ""]
    return "\n".join(parts)


def html(results: Results) -> str:
    """The page."""
    named = [(suite.name, f"suite-{number}") for number, suite in enumerate(results.suites)]
    contents = [f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor in named]
    if results.toy:
        contents.append('<a href="#toy">toy</a>')
    overview = ""
    if len(results.suites) > 1:
        table = _html_table(tell.overview(results.suites))
        contents.insert(0, '<a href="#all">all suites</a>')
        overview = (
            f'<h2 id="all">All suites</h2><p>Mean rank, and Δm % in brackets.</p>{table}'
            f"{_image('ranks', heatmap(tell.suite_ranks(results.suites)))}"
        )
    sections = [
        _section(suite, anchor) for suite, (_, anchor) in zip(results.suites, named, strict=True)
    ]
    if results.toy:
        sections.append(f'<h2 id="toy">toy</h2>{"".join(map(_picture, results.toy))}')
    return _PAGE.substitute(
        problems="".join(f'<p class="problem">{escape(text)}</p>' for text in results.problems),
        contents="".join(contents),
        overview=overview,
        suites="".join(sections),
        legend=escape(LEGEND),
    )


def _section(suite: SuiteResults, anchor: str) -> str:
    parts = [f'<h2 id="{anchor}">{escape(suite.name)}</h2>']
    if (simple := tell.baseline(suite.cells)) is not None:
        parts.append(f"<p>{escape(simple.replace('**', ''))}</p>")
    parts.append(f"<p>{escape(tell.protocol(suite))}</p>")
    parts.append(_html_table(results_table(suite.cells, each_metric=_few(suite))))
    if not _few(suite):
        table = _html_table(results_table(suite.cells, each_metric=True))
        parts.append(f"<details><summary>Each metric</summary>{table}</details>")
    parts.append(f'<p class="verdict">{escape(tell.verdict(suite.cells))}</p>')
    caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in tell.caveats(suite.cells))
    parts.append(f'<ul class="note">{caveats}</ul>' if caveats else "")
    papers = tell.papers_table(suite.cells)
    if papers is not None:
        parts.append(f"<h3>Beside the papers</h3>{_html_table(papers[0])}")
        parts += [f'<p class="note">{escape(note)}</p>' for note in papers[1]]
    first, *others = [*map(_picture, suite.pictures), ""]
    parts.append(first)
    if any(others):
        parts.append(f"<details><summary>More pictures</summary>{''.join(others)}</details>")
    for folder, swept in suite.sweeps.items():
        caption = "mean metric on the test split"
        parts.append(f"<h3>{escape(folder.name)}</h3><p>{caption}</p>{_html_table(swept)}")
        parts.append(_picture(folder / "sweep.png"))
    made = "; ".join(f"{text} ({count})" for text, count in suite.provenance.items())
    parts.append(f'<p class="note">Made by {escape(made)}. {tell.effort(suite.cells)}</p>')
    return "".join(parts)


def _few(suite: SuiteResults) -> bool:
    return len(next(iter(suite.cells.values()))[0].metrics) <= MOST_COLUMNS


def _picture(path: Path) -> str:
    try:
        png = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return _image(path.stem if path.stem != "sweep" else path.parent.name, png)


def _image(name: str, png: bytes) -> str:
    data, name = base64.b64encode(png).decode(), escape(name)
    return f'<p><img alt="{name}" title="{name}" src="data:image/png;base64,{data}"></p>'


def _html_table(table: Lines) -> str:
    def row(tag: str, cells: Iterable[str]) -> str:
        return (
            f"<tr>{''.join(f'<{tag}{_tint(cell)}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
        )

    body = "".join(row("td", cells) for cells in table.rows)
    return f'<div class="wide"><table>{row("th", table.heading)}{body}</table></div>'


def _tint(text: str) -> str:
    """Colour for a difference that is marked as larger than noise."""
    kind = {"+": "better", "-": "worse"}.get(text[:1]) if text.endswith(" *") else None
    return f' class="{kind}"' if kind else ""


def markdown_table(table: Lines) -> list[str]:
    """The lines of a table, a bar in a cell escaped."""

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---", *["---:"] * (len(table.heading) - 1)]
    return [row(table.heading), row(rule), *map(row, table.rows)]
