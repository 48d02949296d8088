"""Every suite from its command, on small files in the formats of the real ones."""

import dataclasses
import functools
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtl_optax as mtl
from benchmarks import __main__ as command_line
from benchmarks.data import files
from benchmarks.methods import ADATASK_ON, ADVERSARIAL, COMPOSED, PAPERS, SEARCHED, check_names
from benchmarks.problems import dominance
from benchmarks.problems import scenes as of_scenes
from benchmarks.problems.dominance import watch
from benchmarks.problems.options import PhotographSuite
from benchmarks.results.cells import read_cell
from benchmarks.show.command import Report
from benchmarks.suite import SEEDS
from benchmarks.suites import (
    SUITES,
    census,
    cityscapes,
    digits,
    multimnist,
    ranking,
    scenes,
)
from benchmarks.suites.synthetic import Synthetic
from benchmarks.suites.tiktok import TikTok
from benchmarks.suites.topic import Topic
from benchmarks.train.experiment import configuration
from benchmarks.train.problem import single_task
from benchmarks.train.recipes import recipe
from benchmarks.train.training import Member, evaluate, train
from tests.benchmarks import small_data
from tests.benchmarks.problems import toy_problem

TINY = ["--methods", "mgda", "--seeds", "1", "--epochs", "1", "--batch-size", "24"]
TINY += ["--learning-rates", "0.01", "--quiet"]
SMALL = [suite for suite in SUITES if suite.name not in ("digits", "synthetic")]
READ_FILES = [suite for suite in SMALL if suite.name not in ("ranking", "scenes")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small_data.write_all(folder)
    return folder


@pytest.fixture
def small_sizes(monkeypatch):
    sizes = {"train": 40, "validation": 10, "test": 10, "seed": 0, "side": 18}
    monkeypatch.setitem(multimnist.DATA, "quick", sizes)
    monkeypatch.setitem(ranking.DATA, "quick", {"users": 5, "videos": 8, "shown": 160})
    monkeypatch.setitem(scenes.DATA, "quick", {"train": 16, "validation": 4, "test": 4, "seed": 0})
    monkeypatch.setitem(scenes.MODEL, "quick", {"channels": (4,), "patch": 8})
    monkeypatch.setitem(PhotographSuite.channels, "quick", (4,))


@pytest.mark.parametrize("suite", SMALL, ids=lambda suite: suite.name)
def test_a_problem_trains_and_is_scored(suite, folder, small_sizes):
    problem = suite(data_dir=folder, batch_size=8).problem()
    run = train(recipe("equal_weighting", problem), [Member(0, 3e-3)], epochs=2)
    assert run.curves.loss.shape == (1, 2, len(problem.tasks))
    assert (run.curves.loss[:, 1].sum(axis=1) < run.curves.loss[:, 0].sum(axis=1)).all()
    assert -1 <= run.curves.cosine[0, 0] <= 1
    losses, metrics = evaluate(problem, run.params, problem.test, run.statistics)
    assert metrics.shape == (1, len(problem.metrics))
    assert np.isfinite(losses).all()
    assert np.isfinite(metrics).all()


def test_texts_are_told_apart_by_what_hides_their_task(folder):
    """The second as well as the first row learns, is scored, and is told by its configuration."""
    suite = Topic(data_dir=folder, batch_size=8)
    problem = suite.problem()
    for method in ADVERSARIAL:
        made = recipe(method, problem)
        run = train(made, [Member(0, 3e-3)], epochs=2)
        loss, log_t = run.curves.loss[0].sum(axis=1), 4 * np.log(4)
        assert loss[1] < loss[0] < 2.5 * log_t
        losses, metrics = evaluate(made.problem, run.params, problem.test)
        assert metrics.shape == (1, len(problem.metrics))
        assert np.isfinite(losses).all()
        config = configuration(problem, suite.row(method), suite.protocol)
        told = {"private_channels": 8, "lambda": 0.05, "gamma": 0.01}
        assert config["hyperparameters"] == told
        rest = configuration(problem, suite.row("uw"), suite.protocol)
        assert {**rest, "hyperparameters": told} == config
    assert run.curves.weights.shape == (1, 2, 4)
    np.testing.assert_allclose(run.curves.weights.sum(axis=-1), 1, rtol=1e-5)


def test_a_perfect_answer_has_a_perfect_score(folder, small_sizes):
    """Outputs made of the targets themselves; the worst answer is worse."""
    for suite in SMALL:
        # Their answers have other shapes: see test_scenes.py and test_photographs.py.
        if suite.name in ("scenes", "nyuv2", "cityscapes"):
            continue
        problem = suite(data_dir=folder, batch_size=8).problem()
        test = problem.test
        if hasattr(test, "repeated") or suite.name in ("topic", "multimnist"):
            right = np.eye(10 if suite.name == "multimnist" else suite.classes)[test.labels]
        else:
            targets = test.labels if hasattr(test, "labels") else test.targets
            right = (
                np.where(test.binary, 2 * targets - 1, targets)
                if suite.name == "paraphrase"
                else targets
            )
        best = problem.scores(np.asarray(right, float), test)
        wanted = [100.0 if metric.higher_is_better else 0.0 for metric in problem.metrics]
        np.testing.assert_allclose(best, wanted, atol=1e-4, err_msg=suite.name)
        worst = problem.scores(-np.asarray(right, float), test)
        assert all(
            bad < good if metric.higher_is_better else bad > good
            for metric, good, bad in zip(problem.metrics, best, worst, strict=True)
        )


def test_two_weighted_means_stand_beside_the_areas_of_short_videos(folder):
    """.7 of "finish" and .3 of "like", and the other way round."""
    problem = TikTok(data_dir=folder, batch_size=8).problem()
    labels = np.tile([[0.0, 0.0], [1.0, 1.0]], (4, 1))
    # All of the first task's rows are told apart, and of the second's half of the pairs.
    outputs = np.column_stack([labels[:, 0], np.repeat([0.0, 1.0], 4)])
    scores = problem.scores(outputs, problem.test._replace(labels=labels))
    names = [metric.name for metric in problem.metrics]
    wanted = {"finish AUC %": 100, "like AUC %": 50, "weighted AUC %": 85}
    wanted |= {"AdaTask's weighted AUC %": 65}
    assert names == [*wanted]
    np.testing.assert_allclose(scores, [*wanted.values()])


def test_digits_are_read_and_slants_told():
    """The slants' error in degrees is far above the readings'; all judge their own task."""
    problem = digits.Digits(batch_size=8).problem()
    data = jax.tree.map(lambda x: x[:200], problem.train)
    outputs = np.concatenate([np.eye(10)[data.labels], np.zeros((200, 1, 10))], axis=1)
    outputs[:, 2, :2] = data.slants
    np.testing.assert_array_equal(problem.scores(outputs, data), 100)
    outputs[::2, 0] *= -1
    outputs[::4, 2, 0] += np.where(np.arange(50) % 2, 4.9, 5.1)
    np.testing.assert_allclose(problem.scores(outputs, data), [50, 100, 93.75])
    nothing = problem.losses(np.zeros((200, 3, 10)), data)
    np.testing.assert_allclose(nothing[:2], np.log(10), rtol=1e-5)
    np.testing.assert_allclose(nothing[2], 2 * np.mean(np.square(data.slants)), rtol=1e-5)
    assert nothing[2] > 100


def test_precision_is_part_of_the_configuration_where_it_is_not_the_default(folder, small_sizes):
    streets = functools.partial(cityscapes.CityScapes, data_dir=folder, model="segnet")
    for suite in (scenes.Scenes, streets):
        whole, half = (
            suite(batch_size=2, precision=precision).problem()
            for precision in ("float32", "bfloat16")
        )
        assert "precision" not in whole.config
        assert half.config == {**whole.config, "precision": "bfloat16"}
        batch, params = jax.tree.map(lambda x: x[:2], whole.train), whole.init(jax.random.key(0))
        computed = [jax.make_jaxpr(one.task_losses)(params, batch) for one in (whole, half)]
        assert ["bf16" in str(program) for program in computed] == [False, True]
        assert {x.dtype.name for program in computed for x in program.out_avals} == {"float32"}


@pytest.mark.parametrize("backbone", ["shared_bottom", "mmoe", "ple", "dcn", "dcn_v2"])
def test_a_backbone_is_chosen(backbone, folder):
    problem = census.Census(backbone=backbone, data_dir=folder, batch_size=8).problem()
    assert problem.config["backbone"] == backbone
    names = {
        "shared_bottom": {"input", "bottom"},
        "mmoe": {"input", "experts"},
        "ple": {"input", "shared_experts", "shared_gates", "task_experts"},
        "dcn": {"input", "cross", "deep"},
        "dcn_v2": {"input", "cross", "deep"},
    }
    params = problem.init(jax.random.key(0))
    assert set(params["trunk"]) == names[backbone]
    losses = problem.task_losses(params, jax.tree.map(lambda x: x[:4], problem.train))
    assert losses.shape == (3,)


def test_members_are_networks_of_their_own(folder, monkeypatch):
    """Each learns by its own loss; what is scored is their mean, for single-task networks too."""
    sizes = {"embedding": 2, "widths": (8,), "tower": (8,)}
    monkeypatch.setitem(census.Census.model, "standard", sizes)
    problem = census.Census(preset="standard", data_dir=folder, batch_size=8).problem()
    members = census.MEMBERS["standard"]
    assert members > 1
    params, few = problem.init(jax.random.key(0)), jax.tree.map(lambda x: x[:6], problem.test)
    outputs = problem.outputs(params, few)
    assert outputs.shape == (6, 3, members)
    assert outputs.std(axis=-1).max() > 1e-2  # Each has a draw of its own.

    def changed(path, leaf):
        one = (0,) if problem.shared(path) else (slice(None), 0)
        return leaf.at[one].add(1.0)

    other = problem.outputs(jax.tree_util.tree_map_with_path(changed, params), few)
    assert (jnp.abs(other - outputs)[..., 0] > 1e-3).all()
    np.testing.assert_array_equal(other[..., 1:], outputs[..., 1:])
    each = [problem.losses(outputs[..., one], few) for one in range(members)]
    np.testing.assert_allclose(problem.losses(outputs, few), np.mean(each, axis=0), rtol=1e-5)
    outputs = np.asarray(outputs)
    np.testing.assert_array_equal(
        problem.scores(outputs, few), problem.scores(outputs.mean(axis=-1), few)
    )
    alone = single_task(problem)
    assert alone.outputs(alone.init(jax.random.key(0)), few).shape == outputs.shape


def test_a_part_of_the_categories_is_made_unknown(folder):
    problem = census.Census(preset="standard", data_dir=folder).problem()
    batch = jax.tree.map(lambda x: np.concatenate([x] * 40), problem.train)
    disturbed = problem.noise(jax.random.key(0), batch)
    gone = disturbed.categories != batch.categories
    assert not disturbed.categories[gone].any()
    part = census.TRAINING["standard"]["unknown"]
    np.testing.assert_allclose(gone.mean(), part, atol=0.01)
    np.testing.assert_array_equal(disturbed.numeric, batch.numeric)
    np.testing.assert_array_equal(disturbed.labels, batch.labels)


def test_a_suite_runs_from_its_command(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(files.VARIABLE, str(folder))
    assert command_line.main(["census", *TINY, "--out", str(tmp_path)]) == 0
    for method in ("single_task", "equal_weighting", "mgda"):
        cell = read_cell(tmp_path / f"{method}-seed0.json")
        assert cell.suite == "census"
        assert len(cell.test) == 3
    assert (tmp_path / "summary.png").exists()


def test_embeddings_are_read(folder, tmp_path):
    """Of any width; they decide what a network of the same parameters says of a text."""
    path = tmp_path / "vectors.txt"
    said = []
    for value in ("0.5", "0.7"):
        path.write_text("about " + " ".join([value] * 50) + "\n")
        problem = Topic(embeddings=path, data_dir=folder).problem()
        assert problem.config["data"]["embeddings"] == "vectors.txt"
        texts = jax.tree.map(lambda x: x[:, :1], problem.train)
        said.append(problem.outputs(problem.init(jax.random.key(0)), texts))
    assert (jnp.abs(said[0] - said[1]).max(axis=-1) > 1e-4).all()
    assert problem.config["model"]["given"] == 50


@pytest.mark.parametrize("suite", READ_FILES, ids=lambda suite: suite.name)
def test_a_missing_file_is_one_line(suite, tmp_path, capsys):
    options = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command_line.main([suite.name, *TINY, *options]) == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    for part in (str(tmp_path), "no such file", "It comes from", "format: "):
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["census", "--backbone", "mmeo"], "--backbone"),
        (["topic", "--methods", "getmlt"], "Did you mean 'getmtl'"),
        (["topics"], "topic"),
        (["census", "--methods", "adv_mtl"], "there is no method 'adv_mtl'"),
        (["synthetic", "--scale", "0"], "--scale must lie between 0 and 1000"),
    ],
)
def test_an_unknown_choice_is_one_line(arguments, message, tmp_path, capsys):
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed


def test_the_presets_of_every_suite_are_complete():
    for suite in SUITES:
        assert set(suite.presets) == set(SEEDS)
        for preset in suite.presets:
            protocol = suite(preset=preset).protocol
            assert protocol.epochs > 0
            assert protocol.seeds == SEEDS[preset]
            assert len(protocol.learning_rates) >= (3 if preset == "quick" else 1)
        check_names("compared", suite.compared, also=(*ADATASK_ON, *suite.own))
        assert len(set(suite.compared)) == len(suite.compared)


def test_what_is_composed_is_told_in_words():
    assert [*COMPOSED] == [*ADATASK_ON, *ADVERSARIAL]


def test_a_search_is_as_long_as_the_grid_and_begins_with_the_default():
    """But for quick, which keeps the grid for all, and where there is one rate."""
    for method, settings in SEARCHED.items():
        parameters = inspect.signature(mtl.method_info(method).factory).parameters
        ((name, value),) = settings[0].items()
        assert value == parameters[name].default
        assert len({json.dumps(setting) for setting in settings}) == len(settings)
        for setting in settings:
            mtl.get(method, 4, **setting)
        for suite in SUITES:
            for preset, given in suite.presets.items():
                row, rates = suite(preset=preset).row(method), len(given.learning_rates)
                several = preset != "quick" and rates > 1
                assert len(row.searched) == (rates if several else 0)
                assert row.searched == settings[: len(row.searched)]
                assert row.label == method
    assert Topic(preset="standard").row("uw").searched == ()
    assert len(Topic(preset="standard", learning_rates=(0.1, 0.2)).row("emtl").searched) == 2


def test_what_does_not_search_has_the_configuration_of_the_cells_kept():
    suite = Synthetic(preset="standard")
    problem = suite.problem()
    for method in ("single_task", "uw", "adatask", "adatask+cagrad"):
        kept = read_cell(suite.folder / f"{method}-seed0.json")
        assert configuration(problem, suite.row(method), suite.protocol) == kept.config


def test_a_preset_decides_methods_seeds_and_folder(monkeypatch):
    trained = []
    monkeypatch.setattr(
        Topic,
        "train",
        lambda suite, rows, folder: trained.append(([row.method for row in rows], folder)) or {},
    )
    monkeypatch.setattr(Topic, "draw_more", lambda suite, cells: None)
    monkeypatch.setattr("benchmarks.show.pictures.draw", lambda cells, folder: None)
    Topic(quiet=True).work()
    Topic(preset="standard", no_baseline=True, quiet=True).work()
    Topic(preset="standard", methods=("mgda",), out=Path("mine"), quiet=True).work()
    (quick, in_results), (standard, in_repository), (given, mine) = trained
    alone = ["single_task", "equal_weighting"]
    assert quick == ["baseline", *alone, *PAPERS]
    assert standard == [*alone, *Topic.compared]
    assert given == ["baseline", *alone, "mgda"]
    assert (in_results, in_repository, mine) == (
        Path("results/topic"),
        Report().results / "topic",
        Path("mine"),
    )
    assert Topic(preset="standard", seeds=2).protocol.seeds == 2


def test_what_one_task_dominates_adatask_evens_out():
    """Of equal weighting's updates nearly all are B's, as is the step size; of AdaTask's, half."""
    problem = Synthetic().problem()
    answers = problem.test.y
    np.testing.assert_allclose(problem.scores(0 * answers, problem.test), 100, rtol=0.05)
    np.testing.assert_allclose(problem.scores(answers / 2, problem.test), 25, rtol=0.05)
    member = Member(0, 3e-3)
    plain = watch("equal_weighting", problem, member, 1)
    even = watch("adatask+pcgrad", problem, member, 1)
    assert plain.shares.shape == (1, 5, 5)
    assert (plain.shares[..., -1] > 0.8).all()
    assert (even.shares[..., -1] < 0.01).all()
    assert (even.shares[..., 1:4].sum(axis=-1) > 0.95).all()
    of_a, of_b, of_both = np.moveaxis(plain.sizes, -1, 0)
    np.testing.assert_allclose(of_both, of_b, rtol=0.3)
    assert (of_a > 2 * of_both).all()
    np.testing.assert_allclose(plain.shares.sum(axis=-1), 1, atol=1e-5)
    assert np.isfinite(plain.noise).all()


def test_noise_goes_where_the_last_task_moves_most(monkeypatch):
    """Of six parameters to one where it is to 10 or 20 %, and to none where it is to less."""
    seen = []

    def evaluate(problem, params, rows):
        seen.append(np.asarray(params["trunk"]))
        return None, np.full((len(seen[-1]), 2), 1.0 if len(seen) == 1 else 1.5)

    monkeypatch.setattr(dominance, "evaluate", evaluate)
    problem = toy_problem()
    params = jax.tree.map(lambda p: p[None], problem.init(jax.random.key(0)))
    squares = {"trunk": np.ones((2, 2, 3), np.float32), "heads": optax.MaskedNode()}
    squares["trunk"][1, 1, 2] = 9
    np.testing.assert_allclose(dominance._noise(problem, params, squares), np.full((9, 2), 50))
    plain, *disturbed = seen
    moved = [np.argwhere((trunk != plain).any(axis=0)).tolist() for trunk in disturbed]
    assert moved == [*[[]] * 7, [[1, 2]], [[1, 2]]]
    drawn = np.concatenate([trunk[:, 1, 2] for trunk in disturbed[-2:]]) - plain[0, 1, 2]
    assert 0.03 < drawn.std() < 0.3


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("equal_weighting", {}),
        ("uw", {"factor": 2.0}),
        ("adatask", {}),
        ("adatask+cagrad", {"c": 0.9}),
    ],
)
def test_a_watched_training_is_the_training(method, given, monkeypatch):
    """It makes the losses of the recipe, and two full steps can be followed by hand."""
    monkeypatch.setattr(dominance, "_noise", lambda problem, params, squares: params)
    problem = toy_problem(batch_size=32, optimizer=lambda r: optax.rmsprop(r, decay=0.99))
    watched = watch(method, problem, Member(0, 0.1), 2, given)
    made = recipe(method, problem, given)
    run = train(made, [Member(0, 0.1)], epochs=2)
    assert run.epoch[0] == 2
    for left, right in zip(
        jax.tree.leaves(watched.noise), jax.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=1e-5)
    if method == "uw" or "+" in method:
        return
    params, state = problem.init(jax.random.split(jax.random.key(0))[0]), None
    state = made.init(params)
    own, joint, moved = np.zeros((2, 6)), np.zeros(6), np.zeros((2, 6))
    for epoch in range(2):
        jacobian = jax.jacrev(problem.task_losses)(params, jnp.asarray(problem.train))
        rows = np.asarray(jacobian["trunk"], float).reshape(2, 6)
        own = 0.99 * own + 0.01 * rows**2
        joint = 0.99 * joint + 0.01 * rows.sum(axis=0) ** 2
        steps = rows / np.sqrt(own if method == "adatask" else joint)
        moved = 0.99 * moved + 0.01 * steps**2
        share = moved[1] / moved.sum(axis=0)
        counts, _ = np.histogram(share, bins=[0, 0.2, 0.4, 0.6, 0.8, 1])
        np.testing.assert_allclose(watched.shares[epoch], [counts / 6] * 2, atol=1e-6)
        few = np.random.default_rng(0).integers(6, size=10)
        sizes = (1 / np.sqrt(np.vstack([own, joint])[:, few])).mean(axis=1)
        np.testing.assert_allclose(watched.sizes[epoch, 0], sizes, rtol=1e-3)
        _, updates, state = made.update(0.1, params, state, jnp.asarray(problem.train), None)
        params = optax.apply_updates(params, updates)


def test_dominance_is_drawn_and_kept(tmp_path, capsys):
    options = ["--epochs", "1", "--seeds", "1", "--learning-rates", "0.001", "--quiet"]
    options += ["--batch-size", "1000", "--methods", "adatask", "--out", str(tmp_path)]
    assert command_line.main(["synthetic", *options]) == 0
    path = tmp_path / "dominance-adatask.json"
    assert np.shape(json.loads(path.read_text())["shares"]) == (1, 5, 5)
    for picture in ("dominance", "steps", "noise"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    before = path.stat().st_mtime_ns
    assert command_line.main(["synthetic", *options]) == 0
    assert path.stat().st_mtime_ns == before
    path.write_text("[]")
    assert command_line.main(["synthetic", *options]) == 2
    assert "dominance-adatask.json: not a finished file" in capsys.readouterr().err


def test_answers_are_drawn_and_kept(small_sizes, tmp_path, monkeypatch, capsys):
    """From the command to the picture; a second call reads what the first has kept."""
    trained, given = [], []

    def made_of(method, problem, chosen):
        given.append((method, chosen))
        return recipe(method, problem, chosen)

    def begin(made, members, *, epochs):
        trained.append((members, epochs))
        models = made.problem.init(jax.random.key(0)), made.problem.statistics
        params, statistics = jax.tree.map(lambda leaf: leaf[None], models)
        return SimpleNamespace(params=params, statistics=statistics)

    monkeypatch.setattr(of_scenes, "train", begin)
    monkeypatch.setattr(of_scenes, "recipe", made_of)
    arguments = ["scenes", *TINY, "--no-baseline", "--out", str(tmp_path)]
    assert command_line.main(arguments) == 0
    cell = read_cell(tmp_path / "mgda-seed0.json")
    assert len(cell.test) == 9
    paths = [tmp_path / f"answers-{m}.json" for m in ("equal_weighting", "mgda", "single_task")]
    kept = json.loads(paths[0].read_text())
    assert np.shape(kept["normals"]) == (2, 64, 96, 3)
    assert trained == [([Member(0, 0.01)], 1)] * 3
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")
    before = [path.stat().st_mtime_ns for path in paths]
    assert command_line.main(arguments) == 0
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert len(trained) == 3
    # What was searched for the table is what the picture shows.
    chosen = dataclasses.replace(cell, method="cagrad", chosen={"c": 0.8})
    of_scenes.draw_answers(scenes.Scenes(out=tmp_path, epochs=1), {"cagrad": [chosen]})
    assert given[-1] == ("cagrad", {"c": 0.8})
    assert [method for method, found in given if not found] == [
        "equal_weighting",
        "mgda",
        "single_task",
    ]
    paths[0].write_text("[]")
    assert command_line.main(arguments) == 2
    assert "answers-equal_weighting.json: not a finished file" in capsys.readouterr().err
