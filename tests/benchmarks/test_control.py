"""Ten control tasks, their actor-critic, and `python -m benchmarks control` as a user meets it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, stats

from benchmarks import __main__ as command_line
from benchmarks.control import agent, environment, experiment, training
from benchmarks.control.environment import State, Task, all_tasks, regulator, start, step, succeeded
from benchmarks.methods import EQUAL_WEIGHTING, SINGLE_TASK
from benchmarks.train.recipes import recipe
from tests.common import stamps

TASKS = all_tasks()
PROBLEM = agent.control_problem(updates=1, episodes=2)
TINY = ["--methods", "pcgrad", "--seeds", "2", "--epochs", "2", "--updates", "1"]
TINY += ["--episodes", "2", "--learning-rates", "0.01", "0.001"]
NETWORKS = ("single_task", "equal_weighting", "pcgrad")
UNTRAINED = {"random-seed0", "baseline-seed0"}


def task_of(number):
    return Task(*(leaf[number] for leaf in TASKS))


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_step_is_what_an_integrator_makes_of_the_equation_of_motion(number):
    rng, task = np.random.default_rng(number), task_of(number)
    position, velocity, action = rng.uniform(-1.5, 1.5, (3, 2))
    turn = np.deg2rad(36 * number)
    forward, sideways = (np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))
    push = np.clip(action, -1, 1)
    force = push[0] * np.array(forward) + push[1] * np.array(sideways)

    def motion(_, state):
        return [*state[2:], *(force / task.mass - 2.0 * state[2:])]

    begin = [*position, *velocity]
    wanted = integrate.solve_ivp(motion, (0, 0.2), begin, rtol=1e-10, atol=1e-10).y[:, -1]
    state, reward = step(task, State(jnp.array(position), jnp.array(velocity)), jnp.array(action))
    np.testing.assert_allclose([*state.position, *state.velocity], wanted, rtol=1e-5, atol=1e-6)
    place = np.deg2rad(108 * number)
    distance = np.hypot(wanted[0] - np.cos(place), wanted[1] - np.sin(place))
    cost = distance + 0.1 * (push**2).sum()
    np.testing.assert_allclose(reward, -task.scale * cost, rtol=1e-5)


def test_constant_thrust_ends_at_the_speed_where_drag_equals_it():
    task, state = task_of(2), State(jnp.zeros(2), jnp.zeros(2))
    for _ in range(40):
        state, _ = step(task, state, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(state.velocity, task.thrusters[:, 0] / (2 * task.mass), rtol=1e-5)


def test_what_is_right_sums_to_zero_over_the_tasks_and_is_opposite_in_pairs():
    wanted = np.array([0.3, -0.8])  # A direction to push in.
    actions = np.einsum("tij,i->tj", TASKS.thrusters, wanted)
    np.testing.assert_allclose(actions.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(actions[:5], -actions[5:], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(actions, axis=1), np.linalg.norm(wanted))
    assert len({tuple(goal.round(6)) for goal in TASKS.goal}) == 10
    for leaf, low, high in ((TASKS.mass, 0.25, 1), (TASKS.scale, 0.5, 2)):
        np.testing.assert_allclose(sorted(leaf), np.geomspace(low, high, 10))


@pytest.mark.parametrize("number", [1, 6])
def test_the_regulator_solves_riccatis_equation(number):
    task = task_of(number)
    drift = np.array([[0, 1, 0], [0, -2.0, 1 / task.mass], [0, 0, 0]])
    whole = linalg.expm(0.2 * drift)
    free, pushed = whole[:2, :2], whole[:2, 2:]
    cost = linalg.solve_discrete_are(free, pushed, np.diag([1.0, 0.0]), [[0.1]])
    gain = np.linalg.solve(0.1 + pushed.T @ cost @ pushed, pushed.T @ cost @ free)
    wanted = [-gain[0, 0] * task.thrusters.T, -gain[0, 1] * task.thrusters.T]
    np.testing.assert_allclose(regulator(task), np.hstack(wanted), rtol=1e-6)


@pytest.mark.parametrize(
    ("off", "speed", "success"),
    [((0.09, 0), (0.19, 0), True), ((0.08, 0.07), (0, 0), False), ((0, 0), (0.15, -0.15), False)],
)
def test_success_is_to_be_near_and_slow(off, speed, success):
    task = task_of(4)
    state = State(jnp.asarray(task.goal) + jnp.array(off), jnp.array(speed))
    assert succeeded(task, state) == success


def test_starts_fill_the_square():
    position, velocity = start(jax.random.key(0), (2000,))
    for values, half in ((position, 1), (velocity, 0.5)):
        assert np.abs(values).max() <= half
        found, wanted = (
            np.quantile(values, [0.1, 0.5, 0.9], axis=0),
            half * np.array([-0.8, 0, 0.8]),
        )
        np.testing.assert_allclose(found, np.stack([wanted, wanted], axis=1), atol=0.1)


def test_advantages_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 6, 3))
    last = rng.normal(size=3)
    after = [*value[1:], last]
    wanted = np.zeros((6, 3))
    for now in range(6):
        for later in range(now, 6):
            surprise = reward[later] + 0.9 * after[later] - value[later]
            wanted[now] += (0.9 * 0.95) ** (later - now) * surprise
    found = agent.advantages(jnp.array(reward), jnp.array(value), jnp.array(last))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def numpy_outputs(params, seen):
    def layer(name, inputs):
        return inputs @ np.float64(params[name]["kernel"]) + np.float64(params[name]["bias"])

    hidden = np.tanh(layer("second", np.tanh(layer("first", seen))))
    deviation = np.tile(np.float64(params["log_deviation"]), (len(seen), 1))
    return np.concatenate([layer("actor", hidden), deviation, layer("critic", hidden)], axis=1)


def numpy_loss(outputs, batch):
    policy = stats.norm(outputs[:, :2], np.exp(outputs[:, 2:4]))
    likely = policy.logpdf(np.float64(batch.action)).sum(axis=1)
    error = outputs[:, 4] - np.float64(batch.target)
    entropy = policy.entropy().sum(axis=1)
    return (-likely * np.float64(batch.advantage) + 0.5 * error**2 - 0.003 * entropy).mean()


def test_the_gradient_is_that_of_finite_differences_of_the_policy():
    rng = np.random.default_rng(1)
    params = agent.init(jax.random.key(3))
    batch = agent.Batch(
        *(jnp.array(rng.normal(size=(7, *s)), jnp.float32) for s in ((14,), (2,), (), ()))
    )

    def loss(params):
        outputs = agent.forward(params, batch.seen)
        return agent.loss(outputs, batch), outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    seen = np.float64(batch.seen)
    np.testing.assert_allclose(outputs, numpy_outputs(params, seen), rtol=1e-5, atol=1e-6)
    leaves, structure = jax.tree.flatten(jax.tree.map(np.float64, params))
    found = jax.tree.leaves(gradients)
    for number, leaf in enumerate(leaves):
        for place in {(0,) * leaf.ndim, tuple(n // 2 for n in leaf.shape)}:

            def moved(by, number=number, place=place):
                changed = [leaf.copy() for leaf in leaves]
                changed[number][place] += by
                return numpy_loss(
                    numpy_outputs(jax.tree.unflatten(structure, changed), seen), batch
                )

            slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
            np.testing.assert_allclose(found[number][place], slope, rtol=2e-4, atol=2e-6)


@pytest.fixture(scope="module")
def played():
    """A batch of the initial network, and the episodes it was made of."""
    params, key = training.begin(PROBLEM, 5)
    episodes = jax.jit(lambda p, k: agent.play(agent.actor(PROBLEM, p), k, 2))(params, key)
    batch = jax.jit(agent.batch_of, static_argnums=0)(PROBLEM, params, key)
    return params, *jax.device_get((episodes, batch))


def test_episodes_are_steps_of_their_own_task_one_after_the_other(played):
    _, episodes, _ = played
    seen = np.concatenate([episodes.seen, episodes.last[None]])
    assert seen.shape == (26, 10, 2, 14)
    assert np.array_equal(seen[..., 4:], np.broadcast_to(np.eye(10)[:, None], (26, 10, 2, 10)))
    one_step = jax.jit(step)
    for task, episode in ((0, 1), (8, 0)):
        for now in range(25):
            there = seen[now, task, episode]
            action = episodes.action[now, task, episode]
            state, reward = one_step(task_of(task), State(there[:2], there[2:4]), action)
            after = seen[now + 1, task, episode, :4]
            np.testing.assert_allclose([*state.position, *state.velocity], after, atol=1e-5)
            np.testing.assert_allclose(episodes.reward[now, task, episode], reward, rtol=1e-4)
        assert episodes.success[task, episode] == succeeded(task_of(task), state)


def test_actions_are_drawn_around_the_means_of_the_network(played):
    params, episodes, _ = played
    outputs = numpy_outputs(params, np.float64(episodes.seen.reshape(-1, 14)))
    noise = (episodes.action.reshape(-1, 2) - outputs[:, :2]) / np.exp(outputs[:, 2:4])
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01


def test_a_batch_is_its_episodes_with_advantages_of_each_task_standardised(played):
    params, episodes, batch = played
    seen = np.concatenate([episodes.seen, episodes.last[None]])
    value = numpy_outputs(params, np.float64(seen.reshape(-1, 14)))[:, 4].reshape(26, 10, 2)
    advantage, later = np.zeros((25, 10, 2)), 0
    for now in reversed(range(25)):
        surprise = 0.1 * episodes.reward[now] + 0.9 * value[now + 1] - value[now]
        advantage[now] = later = surprise + 0.9 * 0.95 * later
    for task in (0, 9):
        of_task = advantage[:, task]
        target = (of_task + value[:-1, task]).ravel()
        standard = ((of_task - of_task.mean()) / of_task.std()).ravel()
        np.testing.assert_allclose(batch.target[task], target, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.advantage[task], standard, rtol=1e-3, atol=1e-3)
        assert np.array_equal(batch.seen[task], episodes.seen[:, task].reshape(50, 14))
        assert np.array_equal(batch.action[task], episodes.action[:, task].reshape(50, 2))


def test_the_controller_succeeds_and_noise_does_not():
    judge = jax.jit(training.evaluate, static_argnums=(0, 1))
    good, bad = (judge(policy, (7, 50)) for policy in (agent.regulated, agent.at_random))
    assert good.success.min() == 1
    assert bad.success.max() < 0.1
    assert np.all(good.total > 2 * bad.total / 3)


def test_the_networks_of_single_tasks_are_copies_at_first():
    made = recipe(SINGLE_TASK, PROBLEM)
    pairs = zip(
        jax.tree.leaves(training.begin(made.problem, 4)[0]),
        jax.tree.leaves(training.begin(PROBLEM, 4)[0]),
        strict=True,
    )
    for copies, leaf in pairs:
        assert np.array_equal(copies, np.broadcast_to(leaf, (10, *leaf.shape)))


def test_an_update_is_adams_on_the_summed_losses_of_fresh_episodes():
    made = recipe(EQUAL_WEIGHTING, PROBLEM)
    params, key = training.begin(PROBLEM, 0)
    found = training.train(made, 2, jnp.float32(0.01), params, key)
    first = jax.random.split(key, (2, 1))[0, 0]
    batch = jax.jit(agent.batch_of, static_argnums=0)(PROBLEM, params, first)
    gradients = jax.jit(jax.grad(lambda p: PROBLEM.task_losses(p, batch).sum()))(params)
    for leaf, before, slope in zip(
        *map(jax.tree.leaves, (found.params, params, gradients)), strict=True
    ):
        # Adam's first step; the rate has come a quarter of its way down.
        wanted = before - 0.0075 * slope / (np.abs(slope) + 1e-8)
        kept = np.abs(slope) > 1e-5  # Else a rounding error decides.
        np.testing.assert_allclose(leaf[0][kept], wanted[kept], rtol=1e-3, atol=1e-5)
        assert not np.array_equal(leaf[1], leaf[0])
    assert np.mean([np.mean(np.abs(g) > 1e-5) for g in jax.tree.leaves(gradients)]) > 0.9


def run(*arguments):
    return command_line.main(["control", *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one finished tiny run."""
    folder = tmp_path_factory.mktemp("control")
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    return folder


def test_a_run_leaves_a_cell_for_each_method_and_seed_a_table_and_a_picture(finished):
    cells = {f"{method}-seed{seed}" for method in NETWORKS for seed in (0, 1)} | UNTRAINED
    assert set(stamps(finished)) == cells
    assert {file.name for file in finished.iterdir() if file.suffix != ".json"} == {
        "control.md",
        "control.png",
    }
    cell = json.loads((finished / "pcgrad-seed1.json").read_text())
    assert np.shape(cell["curves"]["weights"]) == (2, 10)
    assert np.shape(cell["curves"]["cosine"]) == (2,)
    assert json.loads((finished / "single_task-seed0.json").read_text())["curves"]["cosine"] is None


def test_all_methods_begin_with_the_same_parameters_and_play_the_same_episodes(finished):
    """The first update's losses come before anything is learned."""
    first = [
        [
            json.loads((finished / f"{method}-seed{seed}.json").read_text())["curves"]["loss"][0]
            for method in NETWORKS
        ]
        for seed in (0, 1)
    ]
    for losses in first:
        np.testing.assert_allclose(losses, np.broadcast_to(losses[0], (3, 10)), rtol=1e-3)
    assert not np.allclose(first[0][0], first[1][0], rtol=0.1)


def test_rate_and_epoch_are_the_best_of_the_validation_episodes(finished):
    for method in NETWORKS:
        first, second = (
            json.loads((finished / f"{method}-seed{seed}.json").read_text()) for seed in (0, 1)
        )
        tried = {trial["learning_rate"]: trial["validation"] for trial in first["trials"]}
        assert list(tried) == [0.01, 0.001]
        assert first["learning_rate"] == second["learning_rate"] == max(tried, key=tried.get)
        for cell in (first, second):
            success = np.mean([epoch[:10] for epoch in cell["curves"]["validation"]], axis=1)
            assert cell["epoch"] == success.argmax() + 1


def test_the_tables_hold_success_and_return_of_each_task(folder, capsys):
    into = folder / "page.md"
    into.write_text("before\n<!-- control -->\nstale\n<!-- end of control -->\nafter\n")
    cells = [json.loads((folder / f"pcgrad-seed{seed}.json").read_text()) for seed in (0, 1)]
    for cell, success in zip(cells, (10.0, 30.0), strict=True):
        cell["test"][:10] = [success] + [50.0] * 9
        cell["test_loss"] = [8.0] * 9 + [success]
        (folder / f"pcgrad-seed{cell['seed']}.json").write_text(json.dumps(cell))
    assert run(*TINY, "--into", str(into), "--out", str(folder)) == 0
    page, printed = into.read_text(), capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if "pcgrad" in line]
    assert rows[0] == ["pcgrad", "47 ± 1", "20 ± 14", *["50 ± 0"] * 9]
    assert rows[1] == ["pcgrad", "-9.2 ± 1.4", *["-8.0 ± 0.0"] * 9, "-20.0 ± 14.1"]
    assert page.startswith("before\n<!-- control -->\n\nSuccess in percent")
    assert "by paired t-tests at 5 %" in page
    for line in page.splitlines()[3:8]:
        assert line in printed


def test_a_report_takes_the_cells(folder, capsys):
    assert command_line.main(["report", "--results", str(folder)]) == 0
    page = (folder / "report.md").read_text()
    assert "The baseline is no network, but a controller that knows the dynamics" in page
    assert "2 epochs of 1 step, batches of 2" in page
    assert [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")][2:] == [
        f"| {method}" for method in ("random", "baseline", *NETWORKS)
    ]
    assert "for 1 comparison" in page


def test_finished_cells_are_kept_and_lost_ones_are_the_same_again(folder):
    before = stamps(folder)
    lost = {}
    for name in ("pcgrad-seed0", "random-seed0"):
        lost[name] = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").unlink()
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    after = stamps(folder)
    assert {name for name in before if before[name] != after[name]} == lost.keys()
    for name, cell in lost.items():
        again = json.loads((folder / f"{name}.json").read_text())
        for part in ("config", "trials", "learning_rate", "epoch", "test", "test_loss", "curves"):
            assert again[part] == cell[part], (name, part)


def test_an_interrupted_run_says_what_is_kept(folder, monkeypatch, capsys):
    for name in ("random-seed0", "pcgrad-seed0", "pcgrad-seed1"):
        (folder / f"{name}.json").unlink()

    def interrupted(problem, params):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "judge", interrupted)
    assert run(*TINY, "--quiet", "--out", str(folder)) == 130
    message = capsys.readouterr().err.strip()
    assert "6 of 8 cells are kept" in message
    assert "\n" not in message
    assert "random-seed0" in stamps(folder)
    assert "pcgrad-seed0" not in stamps(folder)


def test_a_training_that_diverged_has_no_result(folder):
    (folder / "equal_weighting-seed1.json").unlink()
    cell = json.loads((folder / "equal_weighting-seed0.json").read_text())
    cell["learning_rate"] = 1e38
    (folder / "equal_weighting-seed0.json").write_text(json.dumps(cell))
    assert run(*TINY, "--quiet", "--out", str(folder)) == 0
    gone = json.loads((folder / "equal_weighting-seed1.json").read_text())
    assert gone["epoch"] == 0
    assert gone["test"] == [None] * 11
    assert (
        "Without a finite result: equal_weighting (seed 1)." in (folder / "control.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "pcgard"], "no method 'pcgard'. Did you mean 'pcgrad'"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["--epochs", "0"], "--epochs must be at least 1, not 0"),
        (["--updates", "-1"], "--updates must be at least 1, not -1"),
        (["--episodes", "0"], "--episodes must be at least 1, not 0"),
        (["--learning-rates", "0.1", "nan"], "--learning-rates must be positive, not nan"),
        (["--preset", "paper"], "--preset"),
        (["--into", "nowhere.md"], "--into nowhere.md: cannot be read"),
    ],
)
def test_mistakes_are_one_clear_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    assert run(*arguments, "--out", str(tmp_path)) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed
    assert printed.startswith("benchmarks: ")


def test_the_presets_are_as_told():
    assert environment.STEPS == 25
    assert command_line.Control().folder.as_posix() == "results/control"
    standard = command_line.Control(preset="standard", epochs=3)
    assert standard.folder.as_posix() == "benchmarks/standard/control"
    assert standard.chosen == (5, 3, 30, 32, (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
