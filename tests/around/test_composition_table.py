"""What `docs/composition.md` says of every transformation of Optax is what a run of each shows."""

import functools
import types
from typing import NamedTuple

import composition_table
import jax
import jax.numpy as jnp
import optax
import pytest

DOCUMENT = composition_table.PAGE.read_text(encoding="utf-8")


def parts(version):
    return tuple(int(part) for part in version.split(".")[:3])


@pytest.mark.nans  # Optax's 0/0
def test_the_page_says_what_a_walk_through_optax_shows():
    """Inside `per_task` and after a method, all that differs from a loop is an error."""
    found = composition_table.walk(
        composition_table.public_transformations(composition_table.OPTAX)
    )
    stated = composition_table.stated_version(DOCUMENT)
    if parts(optax.__version__) < parts(stated):
        return  # The page is about a newer Optax.
    fresh = composition_table.rewritten(DOCUMENT, found, stated)
    assert fresh == DOCUMENT, "run: python docs/composition_table.py"


def stateless(update):
    return optax.stateless(lambda updates, params: update(updates, params))


def each(fun):
    return lambda updates, params: jax.tree.map(fun, updates)


def moving(update):
    """A transformation whose state is the sum of the gradients."""

    def add(updates, state, params=None):
        state = jax.tree.map(jnp.add, state, updates)
        return update(updates, state), state

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), add)


def measuring():
    def measure(updates, state, params=None):
        return updates, optax.global_norm(updates)

    return optax.GradientTransformation(lambda params: jnp.zeros(()), measure)


def forgetful():
    """What it does depends on what was done before, and stands in no state."""
    calls = []

    def update(updates, params):
        calls.append(None)
        return jax.tree.map(lambda g: len(calls) * g, updates)

    return stateless(update)


BEFORE = {
    "same": lambda: stateless(each(jnp.tanh)),
    "grows": lambda: moving(lambda updates, state: state),
    "mixes": lambda: stateless(each(lambda g: g / jnp.linalg.norm(g))),
    "measures": measuring,
    "raises": lambda: stateless(lambda updates, params: jax.tree.map(jnp.vdot, updates, params)),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_what_is_done_before_a_method_is_told_apart(kind):
    found = composition_table.walk({"planted": BEFORE[kind]})
    (seen,) = found["before"]
    assert seen.kind == kind
    assert [one.kind for one in found["inside"]] == ["same"]


def test_noise_is_told_from_mixing():
    found = composition_table.walk({"planted": lambda: optax.add_noise(0.1, 0.5, key=0)})
    assert [seen.kind for seen in found["before"]] == ["apart"]


@pytest.mark.parametrize(
    ("around", "kind"),
    [
        (lambda inner: inner, "same"),
        (lambda inner: optax.masked(inner, composition_table.MATRICES), "stacked"),
        (lambda inner: optax.chain(moving(lambda g, s: g), inner), "same"),
        (lambda inner: optax.flatten(inner), "raises"),
    ],
)
def test_what_is_done_around_a_method_is_told_apart(around, kind):
    found = composition_table.walk({"planted": around})
    assert [seen.kind for seen in found["around"]] == [kind]


@pytest.mark.parametrize(
    ("planted", "place"),
    [
        (forgetful, "inside `per_task`"),
        (lambda inner: optax.chain(stateless(each(jnp.abs)), inner), "around a method"),
    ],
)
def test_what_differs_where_nothing_may_is_an_error(planted, place):
    with pytest.raises(AssertionError, match=f"{place}.*, planted differs"):
        composition_table.walk({"planted": planted})


def test_what_does_not_take_losses_is_told():
    deaf = optax.GradientTransformationExtraArgs(
        lambda params: (), lambda updates, state, params=None: (updates, state)
    )
    found = composition_table.walk({"planted": lambda: deaf})
    assert {seen.with_losses for place in found.values() for seen in place} == {False}


class State(NamedTuple):
    inner: optax.GradientTransformation


class Steps:
    def __init__(self, rate):
        self.rate = rate

    def init(self, params):
        return ()

    def update(self, updates, state, params=None):
        return updates, state


def annotated() -> optax.GradientTransformationExtraArgs:
    return optax.sgd(1.0)


def bare():
    return optax.GradientTransformation(None, None)


def other(tx: optax.GradientTransformation) -> int:
    return 0


def test_every_kind_of_factory_is_found():
    module = types.SimpleNamespace(
        State=State,
        Steps=Steps,
        _hidden=annotated,
        annotated=annotated,
        bare=bare,
        other=other,
        partly=functools.partial(annotated),
        schedule=optax.schedules.WrappedSchedule,
    )
    found = composition_table.public_transformations({"their.": module})
    assert list(found) == ["their.Steps", "their.annotated", "their.bare", "their.partly"]


def test_what_is_not_known_says_what_to_do():
    """As a new version of Optax will bring it."""
    with pytest.raises(ValueError, match=r"new wants spin\. Say what in GIVEN.* and run: python"):
        composition_table.walk({"new": lambda learning_rate, spin, other=1: optax.sgd(1.0)})
    broken = lambda: optax.stateless(lambda updates, params: updates["none"])
    with pytest.raises(ValueError, match=r"new does not run on its own\. Say how .* run: python"):
        composition_table.walk({"new": broken})


def test_a_page_that_lags_behind_is_seen():
    found = composition_table.walk({"clip": lambda: optax.clip(0.3), "masked": masked})
    blocks = "".join(
        f"<!-- {name}: by docs/composition_table.py -->\nold\n<!-- end of {name} -->\nkept\n"
        for name in (*composition_table.COLUMNS, "walk")
    )
    page = composition_table.rewritten(blocks, found, "1.2.3")
    assert composition_table.stated_version(page) == "1.2.3"
    assert page.count("kept") == 5
    assert "old" not in page
    assert "alone; what is around another transformation, around one of this kind | `clip`" in page
    assert composition_table.rewritten(page, found, "1.2.3") == page
    with pytest.raises(ValueError, match="no lines <!-- before"):
        composition_table.rewritten("", found, "1.2.3")


def masked(inner):
    return optax.masked(inner, composition_table.MATRICES)
