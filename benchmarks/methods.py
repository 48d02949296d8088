"""The names of baselines and methods, for those who cannot wait for jax to be imported."""

import ast
import difflib
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.errors import UserError

SINGLE_TASK = "single_task"
EQUAL_WEIGHTING = "equal_weighting"
SIMPLE_MODEL = "baseline"  # What a network is to beat: of data, a model of scikit-learn per task.
RANDOM = "random"
UNTRAINED = (RANDOM, SIMPLE_MODEL)
"""What is no network."""
BASELINES = {
    SINGLE_TASK: "One network for each task, trained on its own: the yardstick.",
    EQUAL_WEIGHTING: "One network on the plain sum of the losses: one backward pass, no method.",
}
ADATASK_ON = {"adatask+pcgrad": "pcgrad", "adatask+cagrad": "cagrad"}
"""AdaTask on what another method has made of the task gradients (AdaTask Table 1)."""
ADVERSARIAL = {"adv_mtl": EQUAL_WEIGHTING, "tchebycheff_adv": "tchebycheff"}
"""A shared-private network that hides the task in its shared features, and who weights its losses
(GetMTL Tables 2 and 3, MetaWeighting Figs 2 and 3)."""
PROPOSED = ("getmtl", "meta_weighting", "emtl", "adatask")
"""What the papers propose."""
ALL = "all"


def _values(name: str, *values: float | None) -> tuple[Mapping[str, Any], ...]:
    return tuple({name: value} for value in values)


SEARCHED: Mapping[str, tuple[Mapping[str, Any], ...]] = MappingProxyType(
    {
        "getmtl": _values("epsilon", 0.025, 0.1, 0.5, 0.0075, 0.25),
        "meta_weighting": _values("step_size", 0.1, 0.5, 0.05, 0.3, 1.0),
        "cagrad": _values("c", 0.5, 0.2, 0.8, 0.4, 0.1),
        "gradnorm": _values("alpha", 1.5, 0.5, 3.0, 0.12, 1.0),
        "bandit_mtl": _values("rho", None, 0.1, 1.2, 0.3, 0.03),
        "emtl": ({"mix": 0.1}, {"mix": 0.3}, {"rho": 0.1}, {"mix": 0.5}, {"rho": 0.3}),
    }
)
"""What a method whose paper searches a hyper-parameter tries, in this order: the library's default
first, and as many as there are learning rates for the others."""
# What --preset quick trains: the methods that the five papers propose or compare with.
# fmt: off
PAPERS = [
    "sum_tasks", "mean_tasks", "rlw", "mgda", "pcgrad", "cagrad", "getmtl", "imtl_g",
    "nash_mtl", "scale_invariant", "dwa", "uw", "imtl_l", "imtl", "pareto_mtl", "graddrop",
    "bandit_mtl", "tchebycheff", "gradnorm", "emtl", "meta_weighting", "adatask",
    "layerwise_adatask",
]
# fmt: on


class Entry(NamedTuple):
    """What the registry says of a method in words."""

    summary: str
    source: str


COMPOSED = {
    "adatask+pcgrad": Entry("AdaTask on what PCGrad makes of the task gradients.", "AdaTask"),
    "adatask+cagrad": Entry("AdaTask on what CAGrad makes of the task gradients.", "AdaTask"),
    "adv_mtl": Entry(
        "Texts only: private features beside shared ones, which hide the task.",
        "Liu et al. 2017, https://arxiv.org/abs/1704.05742",
    ),
    "tchebycheff_adv": Entry(
        "Texts only: adv_mtl's network, its shared features under tchebycheff.",
        "after Mao et al. 2020, https://aclanthology.org/2020.acl-main.388/",
    ),
}
"""Rows that are made of parts of the library."""


@functools.cache
def registry() -> dict[str, Entry]:
    """The library's methods, in its order: read from its source, since importing it takes jax."""
    package = importlib.util.find_spec("mtl_optax")
    if package is None or package.origin is None:
        raise UserError('mtl_optax is not installed: pip install -e ".[bench]"')
    face = ast.parse(Path(package.origin).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(face) if isinstance(node, ast.ImportFrom)]
    files = dict.fromkeys(node.module for node in imports if "._methods." in f"{node.module}")
    rows = {}
    for file in files:
        path = Path(package.origin).with_name("_methods") / f"{str(file).split('.')[-1]}.py"
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in getattr(function, "decorator_list", []):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                    summary, source = (getattr(word, "value", "") for word in call.args)
                    rows[getattr(function, "name", "")] = Entry(summary, source)
    return rows


def chosen(given: Iterable[str]) -> list[str]:
    """The methods that ``--methods`` names: those of all the papers where it is not given."""
    names = list(given) or PAPERS
    return list(
        dict.fromkeys(one for name in names for one in (registry() if name == ALL else [name]))
    )


def check_names(option: str, given: Iterable[str], *, also: Iterable[str] = ()) -> None:
    """Raise for a name that is neither a method's nor in ``also``, and suggest one."""
    known = [*registry(), ALL, *also]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            suggestion = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{option}: there is no method {name!r}.{suggestion} Methods: {', '.join(known)}."
            )
