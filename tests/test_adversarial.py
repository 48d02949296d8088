"""The adversarial parts against plain differentiation and NumPy, and two models that they train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mtl_optax as mtl
from mtl_optax import adversarial
from tests.common import relative_error


def features(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        "b": (jnp.asarray(rng.normal(size=2), jnp.bfloat16),),
    }


def objective(x):
    return jnp.sum(jnp.sin(x["a"])) + jnp.sum(x["b"][0].astype(jnp.float32) ** 2)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 3.0])
def test_reversed_gradient_is_minus_strength_times_the_plain_one(strength):
    x = features()
    value, got = jax.jit(
        jax.value_and_grad(lambda x: objective(adversarial.gradient_reversal(x, strength)))
    )(x)
    assert value == jax.jit(objective)(x)
    for g, p in zip(jax.tree.leaves(got), jax.tree.leaves(jax.grad(objective)(x)), strict=True):
        assert g.dtype == p.dtype
        np.testing.assert_allclose(
            np.asarray(g, np.float64),
            -strength * np.asarray(p, np.float64),
            rtol=5e-3 if g.dtype == jnp.bfloat16 else 1e-6,
        )


def test_reversal_against_finite_differences_of_the_function_it_stands_for():
    """Below the reversal the chain rule is turned round, above it it is left alone."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=5), rng.normal(size=(5, 3))

    def loss(x, w, reverse):
        h = adversarial.gradient_reversal(jnp.tanh(x), 0.7) if reverse else jnp.tanh(x)
        return jnp.sum(jnp.cos(h @ w))

    def difference(f, at):
        steps = 1e-6 * np.eye(at.size).reshape(at.size, *at.shape)
        slope = [(f(at + step) - f(at - step)) / 2e-6 for step in steps]
        return np.array(slope, np.float64).reshape(at.shape)

    with jax.enable_x64(True):
        to_x, to_w = jax.grad(loss, argnums=(0, 1))(jnp.asarray(x), jnp.asarray(weights), True)
        plain_x = difference(lambda v: loss(jnp.asarray(v), jnp.asarray(weights), False), x)
        plain_w = difference(lambda v: loss(jnp.asarray(x), jnp.asarray(v), False), weights)
    assert relative_error(to_x, -0.7 * plain_x) < 1e-8
    assert relative_error(to_w, plain_w) < 1e-8


def test_strength_follows_a_schedule_and_differs_between_mapped_copies_without_recompiling():
    schedule = optax.cosine_decay_schedule(2.0, decay_steps=10)
    x, traces = jnp.arange(1.0, 4.0), []

    @jax.jit
    def gradient(x, step):
        traces.append(None)
        return jax.grad(lambda x: jnp.sum(adversarial.gradient_reversal(x, schedule(step)) ** 3))(x)

    for step in (0, 3, 10):
        np.testing.assert_allclose(gradient(x, step), -schedule(step) * 3 * x**2, rtol=1e-6)
    assert len(traces) == 1

    strengths = jnp.array([0.0, 0.5, 2.0])
    cubes = lambda v, strength: jnp.sum(adversarial.gradient_reversal(v, strength) ** 3)
    mapped = jax.vmap(jax.grad(cubes))(jnp.stack([x, 2 * x, 3 * x]), strengths)
    for row, strength, factor in zip(mapped, strengths, (1, 2, 3), strict=True):
        np.testing.assert_allclose(row, -strength * 3 * (factor * x) ** 2, rtol=1e-6)


def test_no_gradient_flows_to_the_strength_and_integers_pass():
    mixed = {"x": jnp.ones(2), "ids": jnp.arange(3)}
    slope = jax.grad(lambda s: jnp.sum(adversarial.gradient_reversal(mixed, s)["x"]))(0.3)
    assert slope == 0
    got = jax.grad(lambda t: jnp.sum(adversarial.gradient_reversal(t)["x"]), allow_int=True)(mixed)
    np.testing.assert_array_equal(got["x"], [-1, -1])


@pytest.mark.parametrize("strength", [jnp.ones(3), "1"])
def test_a_strength_that_is_no_scalar_is_named(strength):
    with pytest.raises((ValueError, TypeError), match="gradient_reversal: strength must be a"):
        adversarial.gradient_reversal(jnp.ones(3), strength)


@pytest.mark.parametrize(
    ("gate", "loss", "reversed_"),
    [
        ("above", 1.2, True),
        ("above", 1.0, False),
        ("above", 0.8, False),
        ("below", 1.2, False),
        ("below", 1.0, False),
        ("below", 0.8, True),
        ("always", 1.2, True),
        ("always", 0.8, True),
    ],
)
def test_gate_opens_on_its_side_of_the_threshold(gate, loss, reversed_):
    def objective(x, loss, threshold, strength):
        x = adversarial.gated_reversal(x, loss, threshold, gate=gate, strength=strength)
        return jnp.sum(x**2)

    x = jnp.array([1.0, -2.0])
    value, slopes = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2, 3)))(x, loss, 1.0, 0.5)
    assert value == 5
    np.testing.assert_array_equal(slopes[0], -x if reversed_ else 0 * x)
    assert all(slope == 0 for slope in slopes[1:])


@pytest.mark.nans
def test_a_gate_on_a_loss_of_nan_does_not_hide_it():
    for gate in ("above", "below"):
        gated = functools.partial(adversarial.gated_reversal, gate=gate)
        slope = jax.grad(lambda x, gated=gated: jnp.sum(gated(x, jnp.nan, 1.0)))(jnp.ones(2))
        assert np.all(np.isnan(slope))
    with pytest.raises(ValueError, match="gated_reversal: gate must be one of .*'abov'.*'above'"):
        adversarial.gated_reversal(jnp.ones(2), 1.0, 1.0, gate="abov")


def penalty_transcribed(shared, private, center=False, normalize=False, reduction="sum"):
    """The double loop over features; options as in the public code of AdvMTL."""
    shared, private = np.asarray(shared, np.float64), np.asarray(private, np.float64)
    if center:
        shared, private = shared - shared.mean(0), private - private.mean(0)
    if normalize:
        shared = np.stack([row / np.linalg.norm(row) for row in shared])
        private = np.stack([row / np.linalg.norm(row) for row in private])
    total = 0.0
    for i in range(shared.shape[1]):
        for j in range(private.shape[1]):
            total += (shared[:, i] @ private[:, j]) ** 2
    return total if reduction == "sum" else total / (shared.shape[1] * private.shape[1])


OPTIONS = [
    {},
    {"center": True},
    {"normalize": True},
    {"reduction": "mean"},
    {"center": True, "normalize": True, "reduction": "mean"},
]


def draw(*shape, seed=0):
    # Off centre, so that centring matters.
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 0.5, jnp.float32)


@pytest.mark.parametrize("options", OPTIONS)
def test_penalty_equals_its_transcription_and_adds_up_over_tasks(options):
    shared, private = draw(3, 7, 4), draw(3, 7, 5, seed=1)
    wanted = [penalty_transcribed(s, p, **options) for s, p in zip(shared, private, strict=True)]
    one = adversarial.orthogonality_penalty(shared[0], private[0], **options)
    assert relative_error(one, wanted[0]) < 1e-5
    summed = jax.jit(functools.partial(adversarial.orthogonality_penalty, **options))
    assert relative_error(summed(shared, private), sum(wanted)) < 1e-5


@pytest.mark.parametrize("options", OPTIONS)
def test_penalty_ignores_rotations_of_either_feature_space_but_for_the_mean(options):
    shared, private = draw(9, 4), draw(9, 4, seed=1)
    rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0], "float32")
    plain = adversarial.orthogonality_penalty(shared, private, **options)
    for left, right in ((shared @ rotation, private), (shared, private @ rotation)):
        turned = adversarial.orthogonality_penalty(left, right, **options)
        assert relative_error(turned, plain) < 1e-5


def test_penalty_is_zero_for_orthogonal_features_and_pulls_them_there():
    basis = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0], jnp.float32)
    assert adversarial.orthogonality_penalty(basis[:, :3], basis[:, 3:]) < 1e-12
    shared, private = draw(8, 3), draw(8, 2, seed=1)
    penalty = lambda s: adversarial.orthogonality_penalty(s, private, normalize=True)
    descend = jax.jit(lambda s: s - 0.1 * jax.grad(penalty)(s))
    for _ in range(200):
        shared = descend(shared)
    assert penalty(shared) < 1e-3 * penalty(draw(8, 3))


def test_penalty_of_a_feature_row_of_zeros_has_finite_gradients():
    shared, private = draw(5, 3).at[2].set(0), draw(5, 3, seed=1)
    slope = jax.grad(lambda s: adversarial.orthogonality_penalty(s, private, normalize=True))(
        shared
    )
    assert np.all(np.isfinite(slope))


def test_penalty_names_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"orthogonality_penalty: .* shapes \(3, 2\) and \(4, 2\)"):
        adversarial.orthogonality_penalty(jnp.ones((3, 2)), jnp.ones((4, 2)))


@pytest.mark.nans
def test_discriminator_loss_is_the_mean_negative_log_probability():
    rng = np.random.default_rng(0)
    logits, tasks = rng.normal(size=(3, 5, 3)), rng.integers(0, 3, size=(3, 5))
    exact = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = -np.take_along_axis(exact, tasks[..., None], -1)[..., 0]
    given = jnp.asarray(logits, jnp.float32), jnp.asarray(tasks)
    assert relative_error(adversarial.task_discriminator_loss(*given), picked.mean()) < 1e-6
    where = rng.random((3, 5)) < 0.5
    masked = adversarial.task_discriminator_loss(*given, where=jnp.asarray(where))
    assert relative_error(masked, picked[where].mean()) < 1e-6
    nothing = adversarial.task_discriminator_loss(*given, where=jnp.zeros((3, 5), bool))
    assert nothing == 0
    assert np.isnan(adversarial.task_discriminator_loss(given[0], given[1] + 3))
    with pytest.raises(ValueError, match=r"tasks has shape \(3, 5, 1\), wanted \(3, 5\)"):
        adversarial.task_discriminator_loss(given[0], given[1][..., None])
    with pytest.raises(TypeError, match="tasks must be integers, got float32"):
        adversarial.task_discriminator_loss(given[0], given[1].astype(jnp.float32))


# Texts are bags of 12 token ids. Every task (a kind of product, say) has topic words of its own,
# which say nothing about the label, polar words of its own, and polar words that it shares.
T, TOPIC, POLAR, SHARED, LENGTH = 3, 4, 4, 8, 12
VOCABULARY = SHARED + T * (TOPIC + POLAR)
WIDTH, BATCH, STEPS = 8, 32, 200
SEEDS = np.arange(4)


def texts(key, batch):
    """Returns tokens `(T, batch, LENGTH)` and labels `(T, batch)` in {-1, 1}."""

    def one(key, task):
        label_key, kind_key, word_key, flip_key = jax.random.split(key, 4)
        positive = jax.random.bernoulli(label_key)
        kind = jax.random.choice(kind_key, 3, (LENGTH,), p=jnp.array([0.6, 0.2, 0.2]))
        word = jax.random.randint(word_key, (LENGTH,), 0, TOPIC * POLAR * SHARED)
        # A polar word agrees with the label four times in five; even words are the positive ones.
        agrees = jax.random.bernoulli(flip_key, 0.8, (LENGTH,))
        sign = jnp.where(agrees == positive, 0, 1)
        own = SHARED + task * (TOPIC + POLAR)
        topic = own + word % TOPIC
        own_polar = own + TOPIC + 2 * (word % (POLAR // 2)) + sign
        polar = 2 * (word % (SHARED // 2)) + sign
        tokens = jnp.select([kind == 0, kind == 1], [topic, own_polar], polar)
        return tokens, jnp.where(positive, 1.0, -1.0)

    keys = jax.random.split(key, (T, batch))
    return jax.vmap(jax.vmap(one, in_axes=(0, None)))(keys, jnp.arange(T))


class Bag(nnx.Module):
    """The mean of the words' embeddings, and one layer."""

    def __init__(self, rngs):
        self.words = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.layer = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, tokens):
        return jnp.tanh(self.layer(jnp.mean(self.words(tokens), axis=-2)))


def one_per_task(make):
    return nnx.split_rngs(splits=T)(nnx.vmap(make))


class Classifier(nnx.Module):
    """A shared encoder, one private to each task if `private`, heads, and a discriminator."""

    def __init__(self, rngs, *, private):
        self.shared = Bag(rngs)
        self.private = one_per_task(Bag)(rngs) if private else None
        self.heads = one_per_task(lambda r: nnx.Linear(WIDTH * (1 + private), 1, rngs=r))(rngs)
        self.discriminator = nnx.Linear(WIDTH, T, rngs=rngs)

    def features(self, tokens):
        shared = self.shared(tokens)
        if self.private is None:
            return shared, None
        return shared, nnx.vmap(lambda bag, x: bag(x))(self.private, tokens)

    def label_losses(self, shared, private, labels):
        inputs = shared if private is None else jnp.concatenate([private, shared], axis=-1)
        logits = nnx.vmap(lambda head, x: head(x)[:, 0])(self.heads, inputs)
        return jnp.mean(jax.nn.softplus(-labels * logits), axis=1)


def advmtl(model, batch, strength):
    """AdvMTL's losses: shared-private, with the public code's penalty."""
    tokens, labels = batch
    shared, private = model.features(tokens)
    guesses = model.discriminator(adversarial.gradient_reversal(shared, strength))
    tasks = jnp.tile(jnp.arange(T)[:, None], (1, BATCH))
    adversary = jax.vmap(adversarial.task_discriminator_loss)(guesses, tasks)
    penalty = functools.partial(
        adversarial.orthogonality_penalty, center=True, normalize=True, reduction="mean"
    )
    losses = model.label_losses(shared, private, labels)
    return losses + adversary + 0.01 * jax.vmap(penalty)(shared, private), losses


def shared_only(model, batch, strength):
    """Hard sharing with a gated adversary, which the worst task's gradient carries."""
    tokens, labels = batch
    shared, _ = model.features(tokens)
    tasks = jnp.tile(jnp.arange(T)[:, None], (1, BATCH))
    discriminate = lambda x: adversarial.task_discriminator_loss(model.discriminator(x), tasks)
    gated = adversarial.gated_reversal(
        shared, discriminate(shared), 0.98 * np.log(T), gate="below", strength=strength
    )
    losses = model.label_losses(shared, None, labels)
    return losses + discriminate(gated), losses


def probe_accuracy(features, others):
    """How often a linear least-squares fit to texts' features names other texts' task."""
    mean, scale = jnp.mean(features, (0, 1)), jnp.std(features, (0, 1))

    def design(x):
        x = (x.reshape(-1, WIDTH) - mean[None]) / scale[None]
        return jnp.concatenate([x, jnp.ones((len(x), 1))], axis=1)

    x, one_hot = design(features), jnp.repeat(jnp.eye(T), features.shape[1], axis=0)
    fit = jnp.linalg.solve(x.T @ x + 1e-3 * jnp.eye(WIDTH + 1), x.T @ one_hot)
    guesses = jnp.argmax(design(others) @ fit, axis=1)
    return jnp.mean(guesses == jnp.repeat(jnp.arange(T), others.shape[1]))


def train(losses_of, method, private, seed, strength):
    """Trains one model; returns its losses on new texts and what a probe tells of their task."""
    init_key, data_key, test_key = jax.random.split(jax.random.key(seed), 3)
    graph, params = nnx.split(Classifier(nnx.Rngs(init_key), private=private))
    encoder = lambda path: path[0].key == "shared"
    # The discriminator learns fast and forgets: undamped, the two chase each other in circles.
    groups = functools.partial(
        jax.tree_util.tree_map_with_path, lambda path, _: path[0].key == "discriminator"
    )
    optimizers = {
        True: optax.adamw(0.05, b1=0.5, weight_decay=2.0),
        False: optax.adam(0.01, b1=0.5),
    }
    tx = optax.chain(mtl.on_shared(method, encoder), optax.partition(optimizers, groups))
    rise = optax.linear_schedule(0.0, 1.0, transition_steps=20)

    def advance(carry, step):
        params, state = carry
        batch = texts(jax.random.fold_in(data_key, step), BATCH)
        objective = lambda p: losses_of(nnx.merge(graph, p), batch, strength * rise(step))
        (_, losses), gradients = mtl.value_and_task_grads(objective, has_aux=True, shared=encoder)(
            params
        )
        updates, state = tx.update(gradients, state, params, task_losses=losses)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(advance, (params, tx.init(params)), jnp.arange(STEPS))
    model = nnx.merge(graph, params)
    tokens, labels = texts(test_key, 1000)
    shared, private_features = model.features(tokens)
    losses = model.label_losses(shared, private_features, labels)
    return losses, probe_accuracy(shared[:, :500], shared[:, 500:])


def worst_task(evidence):
    return jax.nn.one_hot(jnp.argmax(evidence.losses), T)


@pytest.mark.parametrize(
    ("losses_of", "method", "private", "strength"),
    [
        (advmtl, mtl.sum_tasks(T), True, 0.3),
        (
            shared_only,
            mtl.from_weighting(mtl.stateless("worst_task", T, frozenset({"losses"}), worst_task)),
            False,
            1.0,
        ),
    ],
)
def test_training_against_the_discriminator_hides_the_task(losses_of, method, private, strength):
    """With the reversal detached (strength 0) the discriminator learns, and nothing else changes.

    Over 24 seeds the probe's accuracy fell by 0.36 on average, from 0.84, and by 0.20 at least.
    """
    run = functools.partial(train, losses_of, method, private)
    over_seeds = jax.vmap(run, in_axes=(0, None))
    losses, accuracy = jax.jit(jax.vmap(over_seeds, in_axes=(None, 0)))(
        SEEDS, jnp.array([0.0, strength])
    )
    # Coin tossing loses log 2, and names one task in three.
    assert np.all(losses < 0.5 * np.log(2))
    without, against = accuracy
    assert np.all(without - against > 0.1)
    assert np.mean(without - against) > 0.2
