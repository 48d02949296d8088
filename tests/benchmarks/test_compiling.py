"""The benchmark of compile time: its arithmetic, its programs, its tables and its errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from benchmarks import __main__ as command_line
from benchmarks.speed.compiling import costs, leaves, steps
from benchmarks.speed.compiling.costs import Cost, Program

COMMAND = ["compile", "--methods", "mgda", "uw", "--tasks", "2", "--leaves", "2", "--rounds", "1"]


def test_costs_are_medians_of_turns_in_the_order_of_the_programs(monkeypatch):
    clock, turns = [0.0], []

    def cost(program):
        turns.append(program.function)
        clock[0] += 1
        return Cost(clock[0], 10 * clock[0], 100 * clock[0])

    monkeypatch.setattr(costs, "cost", cost)
    programs = {name: Program(name, ()) for name in "ab"}
    found = costs.costs(programs, rounds=3, title="", console=Console(quiet=True))
    assert turns == ["a", *"ababab"]
    assert found == {"a": Cost(4, 40, 400), "b": Cost(5, 50, 500)}


def test_every_turn_traces_and_compiles_anew():
    traced, compiled = [], []

    def function(x):
        traced.append(x)
        return x + 1

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(2):
            found = costs.cost(Program(function, (jnp.zeros(3),)))
            assert min(found) > 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(traced) == 2
    assert len(compiled) >= 2


def test_each_program_is_compiled_with_the_options_too(monkeypatch):
    monkeypatch.setattr(costs, "WITHOUT_EMITTERS", {"no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        costs.cost(Program(lambda x: x + 1, (jnp.zeros(3),)))


@pytest.mark.parametrize("method", ["mean_tasks", "mgda", "uw", "adatask", "meta_weighting"])
def test_programs_are_steps_that_train(method):
    """A step by hand and one of the mean are the same; all others move every parameter too."""
    key = jax.random.key(0)

    def at_random(tree):
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    of_method = [steps._step(method, 3, way) for way in steps.ways(method)]
    programs = [steps._by_hand(3), *of_method]
    moved = []
    for program in programs:
        params, state, *batches = program.arguments
        after = program.function(at_random(params), state, *map(at_random, batches))[0]
        change = optax.tree.sub(after, at_random(params))
        moved.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)]))
    for change in moved:
        assert (np.abs(change) > 1e-4).mean() > 0.8
    if method == "mean_tasks":
        for change in moved[1:]:
            np.testing.assert_allclose(change, moved[0], rtol=1e-3)


def test_leaves_are_as_many_as_asked():
    for program in (leaves._adam(5, (3,)), leaves._chained("mgda", 5, (3,))):
        updates, _ = program.function(*program.arguments)
        assert [leaf.shape for leaf in jax.tree.leaves(updates)] == [(3,)] * 5


def test_the_tables_hold_every_program_with_its_target(tmp_path, capsys):
    into = tmp_path / "page.md"
    into.write_text("<!-- compile -->\n<!-- end of compile -->\n")
    assert command_line.main([*COMMAND, "--out", str(tmp_path), "--into", str(into)]) == 0
    printed = capsys.readouterr().out
    for text in (printed, into.read_text(), (tmp_path / "compile.md").read_text()):
        for start in ("mgda, stacked", "mgda, taps", "uw, stacked", "uw, one pass"):
            start += " | ≤ 1.2" if start == "uw, one pass" else " | ≤ 2.5"
            assert f"| {start} |" in text
        assert "| mgda | ≤ 3 at 400 |" in text
        assert (
            "| update | target | 2 of (3,) | 2 of (3,), without emitters | 2 of (64, 64) |" in text
        )
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    of = {(row["part"], row["method"], row.get("way"), str(row.get("shape"))): row for row in rows}
    assert len(of) == len(rows) == 5 + 2 * 3
    hand, mgda = (
        of["steps", *name, "None"]
        for name in (("equal weighting by hand", ""), ("mgda", "stacked"))
    )
    assert mgda["compiling over equal"] == mgda["compiling"] / hand["compiling"]
    assert mgda["without_emitters over equal"] == mgda["without_emitters"] / hand["compiling"]
    assert hand["compiling over equal"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "mdga"], "--methods: "),
        (["--tasks", "0"], "--tasks must be at least 1"),
        (["--leaves", "-5"], "--leaves must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--into", "nowhere.md"], "--into nowhere.md: cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_line(options, message, tmp_path, capsys):
    assert command_line.main(["compile", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
