"""The landscape of two losses, and `python -m benchmarks toy` as a user meets it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import __main__ as command_line
from benchmarks.toy import descent
from benchmarks.toy.descent import descend
from benchmarks.toy.landscape import EXTENT, FLOOR, STARTS, losses, pareto_front
from tests.common import stamps

TINY = ["--methods", "sum_tasks", "meta_weighting", "adatask", "--steps", "3"]
METHODS = ("sum_tasks", "meta_weighting", "adatask")


def paper_losses(x, y):
    """The formulas as CAGrad's appendix has them, in double precision."""
    c1, c2 = np.maximum(np.tanh(0.5 * y), 0), np.maximum(np.tanh(-0.5 * y), 0)
    f1 = np.log(np.maximum(np.abs(0.5 * (-x - 7) - np.tanh(-y)), 5e-6)) + 6
    f2 = np.log(np.maximum(np.abs(0.5 * (-x + 3) + np.tanh(-y) + 2), 5e-6)) + 6
    g1 = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    g2 = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    return np.stack([c1 * f1 + c2 * g1, c1 * f2 + c2 * g2])


def somewhere(count, seed=0):
    return np.random.default_rng(seed).uniform(-EXTENT, EXTENT, (2, count))


def test_losses_are_the_papers():
    points = somewhere(1000)
    expected = paper_losses(*points) * np.array([[0.1], [1]])
    np.testing.assert_allclose(losses(jnp.asarray(points), 0.1), expected, rtol=1e-3, atol=1e-3)
    assert paper_losses(*somewhere(100_000)).min() > FLOOR


def test_gradients_are_those_of_finite_differences():
    points, step = somewhere(200), 1e-6
    x, y = points
    slopes = np.stack(
        [
            (paper_losses(x + step, y) - paper_losses(x - step, y)) / (2 * step),
            (paper_losses(x, y + step) - paper_losses(x, y - step)) / (2 * step),
        ],
        axis=-1,
    )
    gradients = jax.vmap(jax.jacrev(losses), in_axes=1, out_axes=1)(jnp.asarray(points))
    np.testing.assert_allclose(gradients, slopes, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("start", STARTS)
def test_gradients_are_finite_at_the_starts(start):
    gradients = jax.jacrev(losses)(jnp.asarray(start))
    assert np.isfinite(gradients).all()
    assert np.abs(gradients).max() > 0


@pytest.mark.parametrize(("task", "side"), [(0, -1), (1, 1)])
def test_each_loss_has_a_narrow_valley_above_and_a_wide_bowl_below(task, side):
    x = np.linspace(-EXTENT, EXTENT, 20_001)
    above = np.asarray(losses(jnp.stack([x, jnp.full_like(x, 4.0)])))[task]
    bottom = x[above.argmin()]
    assert bottom == pytest.approx(side * 5, abs=0.1)
    assert above.min() < above[np.abs(x - bottom) > 0.5].min() - 3
    below = np.asarray(losses(jnp.stack([x, jnp.full_like(x, -8.0)])))[task]
    assert x[below.argmin()] == pytest.approx(-7 * side, abs=0.01)
    assert below.min() < -19.9
    assert np.all(np.diff(below, n=2) > -1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_no_point_found_at_random_betters_the_front(scale):
    front = pareto_front(scale)
    x, y = somewhere(200_000)
    x, y = np.concatenate([x, 0.8 * x]), np.concatenate([y, -8.4 + 0.02 * y])
    others = paper_losses(x, y).T * (scale, 1)
    # The grid is not dense enough to be sure of the last digits.
    slack = 2e-3 * np.array([scale, 1])
    for point in front.losses[::500]:
        assert not np.any(np.all(others < point - slack, axis=1))
    np.testing.assert_allclose(
        front.losses, paper_losses(*front.params.T).T * (scale, 1), rtol=1e-4, atol=1e-4
    )
    assert np.all(np.diff(front.losses[:, 0]) >= 0)
    assert np.all(np.diff(front.losses[:, 1]) < 0)


def test_the_front_joins_the_two_bowls():
    front = pareto_front()
    np.testing.assert_allclose(front.params[[0, -1]], [(7, -8.4), (-7, -8.4)], atol=0.1)
    assert np.all((front.params[:, 1] > -8.5) & (front.params[:, 1] < -8.0))


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_places_and_distances_do_not_depend_on_the_scale(scale):
    front = pareto_front(scale)
    middle = paper_losses(0.0, -8.35) * (scale, 1)
    ends = np.stack(
        [front.losses[0], middle, front.losses[-1], middle + np.array([2 * scale, 0]), [np.nan] * 2]
    )
    places, distances = front.place(ends)
    np.testing.assert_allclose(places[:3], [0, 0.5, 1], atol=1e-2)
    np.testing.assert_allclose(distances[:3], 0, atol=1e-3)
    assert 0.05 < distances[3] < 2 / 19
    assert distances[4] == np.inf


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_summing_the_gradients_is_adam_on_the_summed_loss(scale):
    steps = 30
    run = descend("sum_tasks", scale=scale, steps=steps, learning_rate=0.05, points=1000)
    assert run.step == list(range(steps + 1))
    adam = optax.adam(0.05)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: losses(p, scale).sum())(params)
        updates, state = adam.update(gradients, state)
        return optax.apply_updates(params, updates), state

    # At the origin the gradients cancel but for a rounding error, which Adam makes a step of.
    for start, path in zip(STARTS[[0, 2, 3, 4]], run.params[[0, 2, 3, 4]], strict=True):
        params, state = jnp.asarray(start), adam.init(jnp.asarray(start))
        for point in path:
            np.testing.assert_allclose(point, params, atol=1e-4)
            params, state = step(params, state)


def test_the_methods_differ_as_in_the_papers():
    """CAGrad's figure: where the sum is caught in a valley, MGDA leaves it."""
    options = {"scale": 1.0, "steps": 5000, "learning_rate": 4e-3}
    caught = descend("sum_tasks", **options).params[:, -1]
    free = descend("mgda", **options).params[:, -1]
    assert np.array_equal(caught[:, 1] > 1, [True, False, True, False, False])
    assert np.all(free[:, 1] < -6)


# One for each thing that a method may read, those that take losses to be positive, and optimisers.
@pytest.mark.parametrize(
    "method",
    [
        "rlw",
        "mgda",
        "scale_invariant",
        "gradnorm",
        "graddrop",
        "meta_weighting",
        "layerwise_adatask",
    ],
)
def test_methods_of_every_kind_descend_from_every_start(method):
    run = descend(method, scale=0.1, steps=20, learning_rate=0.01)
    assert run.step[0] == 0
    assert run.step[-1] == 20
    assert run.params.shape == run.losses.shape == (5, len(run.step), 2)
    np.testing.assert_allclose(run.params[:, 0], STARTS)
    assert np.isfinite(run.losses).all()
    assert np.all(run.params[:, -1] != run.params[:, 0], axis=1).sum() >= 4


def run(*arguments):
    return command_line.main(["toy", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one finished tiny run."""
    folder = tmp_path_factory.mktemp("toy")
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to be spoiled."""
    for file in finished.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_run_leaves_one_file_per_method_and_two_pictures(finished):
    names = {file.name for file in finished.iterdir()}
    assert names == {f"{m}.json" for m in METHODS} | {"toy.png", "toy_losses.png"}
    content = json.loads((finished / "adatask.json").read_text())
    assert content["config"]["steps"] == 3
    assert content["config"]["scale"] == 1
    assert np.shape(content["params"]) == (5, len(content["step"]), 2)
    expected = np.moveaxis(paper_losses(*np.moveaxis(content["params"], -1, 0)), 0, -1)
    np.testing.assert_allclose(content["losses"], expected, rtol=1e-3, atol=1e-3)


def test_the_table_counts_the_ends_on_the_front(folder, capsys):
    file = folder / "sum_tasks.json"
    content = json.loads(file.read_text())
    for place in content["losses"][:3]:
        place[-1] = pareto_front().losses[0].tolist()
    content["losses"][3][-1] = pareto_front().losses[-1].tolist()
    content["losses"][4][-1] = [0.0, 0.0]
    file.write_text(json.dumps(content))
    assert run(*TINY, "--out", str(folder)) == 0
    rows = {
        line.split()[0]: line.split()[1:]
        for line in capsys.readouterr().out.splitlines()
        if line.split()
    }
    assert rows["sum_tasks"] == ["4/5", "-12.07", "-4.24", "0.25", "1.00"]
    assert rows["adatask"][0] == "0/5"
    assert rows["adatask"][-2:] == ["–", "–"]


def test_finished_methods_are_kept_and_missing_ones_are_run(folder):
    before = stamps(folder)
    lost = json.loads((folder / "sum_tasks.json").read_text())
    (folder / "sum_tasks.json").unlink()
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    after = stamps(folder)
    assert {method for method in before if before[method] != after[method]} == {"sum_tasks"}
    assert json.loads((folder / "sum_tasks.json").read_text())["params"] == lost["params"]


@pytest.mark.parametrize("option", [["--scale", "0.1"], ["--learning-rate", "0.1"], ["--fresh"]])
def test_other_options_and_fresh_run_again(folder, option):
    before = stamps(folder)
    assert run(*TINY, *option, "--quiet", "--out", str(folder)) == 0
    assert all(stamps(folder)[method] != stamp for method, stamp in before.items())


def test_a_preset_decides_what_is_not_given(tmp_path):
    arguments = ["--methods", "sum_tasks", "--quiet", "--out", str(tmp_path)]
    assert run(*arguments, "--preset", "quick", "--learning-rate", "0.5") == 0
    config = json.loads((tmp_path / "sum_tasks.json").read_text())["config"]
    assert (config["steps"], config["learning_rate"]) == (25_000, 0.5)


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    def interrupted(method, **options):
        if method == "adatask":
            raise KeyboardInterrupt
        return descend(method, **options)

    monkeypatch.setattr(descent, "descend", interrupted)
    assert run(*TINY, "--quiet", "--out", str(tmp_path)) == 130
    message = capsys.readouterr().err.strip()
    assert "2 of 3 methods are kept" in message
    assert "\n" not in message
    assert set(stamps(tmp_path)) == {"sum_tasks", "meta_weighting"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "pcgard"], "no method 'pcgard'. Did you mean 'pcgrad'"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--learning-rate", "-1"], "--learning-rate must be positive, not -1.0"),
        (["--scale", "0"], "--scale must be positive, not 0.0"),
        (["--scale", "nan"], "--scale must be positive, not nan"),
        (["--preset", "slow"], "--preset"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    assert run(*arguments, "--out", str(tmp_path)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert printed.startswith("benchmarks: ")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not a finished run"),
        (lambda text: text.replace('"adatask"', '"mgda"', 1), "it is of mgda"),
        (lambda text: text.replace('"step": [', '"step": [1, ', 1), "have the wrong length"),
        (lambda text: text.replace('"params"', '"x"', 1), "no 'params'"),
    ],
)
def test_a_damaged_file_is_named(folder, capsys, spoil, reason):
    file = folder / "adatask.json"
    file.write_text(spoil(file.read_text()))
    assert run(*TINY, "--quiet", "--out", str(folder)) == 2
    printed = capsys.readouterr().err.strip()
    assert str(file) in printed
    assert reason in printed
    assert "--fresh" in printed
