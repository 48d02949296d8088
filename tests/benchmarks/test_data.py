"""The loaders, on small files whose content is known."""

import ast
import csv
import gzip
import inspect
import json
import shutil

import numpy as np
import pytest

from benchmarks.data import (
    aliexpress,
    alike,
    census,
    files,
    molecules,
    multimnist,
    pairs,
    ranking,
    reviews,
    synthetic,
    texts,
    tiktok,
    topics,
    wechat,
)
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Table, binned
from benchmarks.errors import UserError
from tests.benchmarks import small_data
from tests.common import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    small_data.write_all(folder)
    return folder


def decode(row, words):
    return [words[i] for i in row if i]


def test_topics_are_encoded_padded_and_held_apart(folder):
    splits, words, _ = topics.topics(folder, vocabulary=50, length=16, validation=0.25)
    assert words[:2] == [texts.PADDING, texts.UNKNOWN]
    counts = [48, 52, 56, 60]
    for split, fraction in ((splits.train, 0.75), (splits.validation, 0.25)):
        assert split.present.sum(axis=1).tolist() == [round(fraction * n) for n in counts]
    assert splits.test.present.sum(axis=1).tolist() == [12, 16, 20, 24]
    # Rows come first, padding after, and padding is empty.
    for split in splits:
        assert (np.diff(split.present.astype(int), axis=1) <= 0).all()
        assert not split.tokens[~split.present].any()
    # The subject, which comes twice, names the label.
    for task in range(4):
        for row in range(splits.train.present[task].sum()):
            subject = decode(splits.train.tokens[task, row], words)[:4]
            assert subject == 2 * ["about", small_data.WORDS[splits.train.labels[task, row]]]
    # What only test rows hold is not in the vocabulary.
    assert "onlytrain" in words
    assert "onlytest" not in words
    assert len(decode(splits.test.tokens[0, 0], words)) == 4 + 9


def test_tokens_are_words_with_their_apostrophes_and_the_signs_of_excitement():
    text = "I don't like it, is n't_it?! C++ 486DX ____"
    found = texts.tokens(text)
    assert found == ["i", "don't", "like", "it", "is", "n't", "it", "?", "!", "c", "486dx"]


def test_the_vocabulary_is_the_most_frequent_words():
    words = texts.vocabulary(["b a, b", "C b c", "d"], 5)
    assert words == [texts.PADDING, texts.UNKNOWN, "b", "c", "a"]
    encoded = texts.encode(["B x , b c", ""], words, 3)
    np.testing.assert_array_equal(encoded, [[2, 2, 3], [0, 0, 0]])
    assert texts.vocabulary(["b a, b", "C b c", "d"], 4, skip=1) == [*words[:2], "c", "a"]


def test_of_a_longer_text_beginning_and_end_may_be_kept():
    words = texts.vocabulary(["a b c d e f"], 8)
    number = {word: i for i, word in enumerate(words)}
    rows = texts.encode(["a b c d x e f", "a b c", "a b c d"], words, 4, ending=1)
    wanted = [[number[word] for word in row] for row in ("abcf", "abc", "abcd")]
    np.testing.assert_array_equal(rows, [wanted[0], [*wanted[1], 0], wanted[2]])


def test_unknown_words_may_be_told_apart():
    words = texts.vocabulary(["b a"], 4)
    first, second = texts.encode(["x b y", "y x b"], words, 3, buckets=1000)
    assert (first[1], *second[1:]) == (words.index("b"), first[0], words.index("b"))
    assert second[0] == first[2] != first[0]
    assert 4 <= first[[0, 2]].min() <= first[[0, 2]].max() < 1004


def test_word_vectors_are_prepared_from_what_stands_near():
    """The same as loops over all pairs and a dense decomposition, up to a rotation."""
    rng = np.random.default_rng(5)
    rows = rng.integers(1, 9, (30, 10)) * (np.arange(10) < rng.integers(3, 11, (30, 1)))
    near = np.zeros((10, 10))
    for row in rows:
        for i in range(10):
            for j in range(10):
                if 0 < abs(i - j) <= 3 and min(row[i], row[j]) > 1:
                    near[row[i], row[j]] += 1 / abs(i - j)
    context = near.sum(axis=0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = near.sum(axis=1)[:, None] * context / context.sum()
        information = np.nan_to_num(np.maximum(np.log(near / chance), 0))
    left, values, _ = np.linalg.svd(information)
    wanted = (left[:, :3] * np.sqrt(values[:3]))[2:9]
    wanted /= np.sqrt(np.mean(wanted**2, axis=1, keepdims=True))
    vectors = texts.word_vectors(rows, 10, 3, window=3)
    assert not vectors[[0, 1, 9]].any()
    np.testing.assert_allclose(
        vectors[2:9] @ vectors[2:9].T, wanted @ wanted.T, rtol=1e-3, atol=1e-3
    )


def test_word_vectors_are_made_once(tmp_path, monkeypatch):
    """For each choice of what they are made of, and again where the file is not whole."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    rows = np.random.default_rng(0).integers(0, 9, (20, 10)).astype(np.int32)
    first, made = texts.prepared(rows, 10, 3, window=3), []
    (kept,) = tmp_path.iterdir()
    make = texts.word_vectors
    source = inspect.getsource(make)
    monkeypatch.setattr(texts.inspect, "getsource", lambda function: source)
    monkeypatch.setattr(
        texts, "word_vectors", lambda *args, **given: made.append(args) or make(*args, **given)
    )
    np.testing.assert_array_equal(texts.prepared(rows, 10, 3, window=3), first)
    assert made == []
    other = rows.copy()
    other[3, 4] += 1
    texts.prepared(other, 10, 3, window=3)
    texts.prepared(rows.reshape(10, 20), 10, 3, window=3)
    texts.prepared(rows, 10, 2, window=3)
    texts.prepared(rows, 10, 3, window=2)
    texts.prepared(rows, 10, 3, window=3, seed=1)
    assert len(made) == 5
    whole = kept.read_bytes()
    for damaged in (b"", whole[:50], whole[:-4], b"PK" + whole):
        kept.write_bytes(damaged)
        np.testing.assert_array_equal(texts.prepared(rows, 10, 3, window=3), first)
        assert kept.read_bytes() == whole
    assert len(made) == 9
    source += "#"
    texts.prepared(rows, 10, 3, window=3)
    assert len(made) == 10
    assert len([*tmp_path.iterdir()]) == 7


def test_without_a_place_for_word_vectors_they_are_made(tmp_path, monkeypatch):
    rows = np.random.default_rng(0).integers(0, 9, (20, 10)).astype(np.int32)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "file" / "data"))
    wanted = texts.word_vectors(rows, 10, 3, window=3)
    np.testing.assert_array_equal(texts.prepared(rows, 10, 3, window=3), wanted)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "folder"))

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    np.testing.assert_array_equal(texts.prepared(rows, 10, 3, window=3), wanted)
    assert not [*(tmp_path / "folder").iterdir()]


def test_a_limit_draws_rows_by_seed(folder):
    options = {"vocabulary": 50, "length": 12, "limit": 40, "validation": 0.2}
    few = [topics.topics(folder, **options, seed=seed)[0] for seed in (0, 0, 1)]
    assert few[0].train.present.sum(axis=1).tolist() == [32] * 4
    assert few[0].test.present.sum(axis=1).tolist() == [12, 16, 20, 20]
    np.testing.assert_array_equal(few[0].train.tokens, few[1].train.tokens)
    assert not np.array_equal(few[0].train.tokens, few[2].train.tokens)


def test_topics_are_fetched_where_no_folder_is_given(folder, monkeypatch):
    monkeypatch.delenv(files.VARIABLE, raising=False)

    class Bunch:
        def __init__(self, subset, categories):
            self.target_names = sorted(categories)
            self.target = [i % 4 for i in range(20)]
            self.data = [
                f"From: me\nSubject: {self.target_names[i]}\nX: y\n\nbody of {subset}"
                for i in self.target
            ]

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", lambda **asked: Bunch(**asked))
    splits, words, _ = topics.topics(None, vocabulary=100, length=20, validation=0.2)
    assert splits.train.present.sum() == 4 * 16
    for task, name in enumerate(topics.TASKS):
        for row in range(16):
            group = topics.GROUPS[name][splits.train.labels[task, row]]
            text = decode(splits.train.tokens[task, row], words)
            assert text == [*2 * texts.tokens(f"{name}.{group}"), "body", "of", "train"]

    def offline(**asked):
        raise OSError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", offline)
    with pytest.raises(UserError, match="could not be fetched.*--data-dir"):
        topics.topics(None, vocabulary=100, length=20)


def test_reviews_know_what_repeats(folder):
    splits, words, raw = reviews.reviews(folder, vocabulary=50, length=10, validation=0.25)
    assert splits.train.tokens.shape == (14, 18, 10)
    assert splits.validation.labels.sum(axis=1).tolist() == [3] * 14
    assert not splits.train.repeated.any()
    assert splits.test.repeated.sum(axis=1).tolist() == [8] * 14
    # The texts lie as their tokens do.
    assert [len(task) for task in raw.train] == [18] * 14
    for text, row in zip(raw.train[3], splits.train.tokens[3], strict=True):
        assert decode(row, words) == texts.tokens(text)[:10]


def test_pairs_keep_their_targets(folder):
    splits, words, raw, others = pairs.pairs(
        folder, vocabulary=50, buckets=4, length=8, validation=0.25
    )
    assert splits.train.present.sum(axis=1).tolist() == [36, 18]
    assert set(splits.train.targets[0]) == {0, 1}
    assert splits.train.targets[1].max() > 4
    assert words[-4:] == [f"<unknown {number}>" for number in range(4)]
    for (_, text), row in zip(raw.test[1], splits.test.second[1], strict=False):
        assert decode(row, words) == texts.tokens(text)[:8]
    # The file's other task has one text, of one word that no pair has.
    assert others.shape == (pairs.PIECES, 8)
    assert words[others[0, 0]].startswith("<unknown")
    assert others.astype(bool).sum() == 1


def test_what_two_texts_have_in_common():
    overlap = alike.Overlap(["a big cat", "the small dog"])
    same, half, none, numbers = overlap(
        [
            ("a big cat", "a big cat"),
            ("A big cat", "a big dog runs"),
            ("big cat", "small dog"),
            ("It isn't 7 not 12", "12 or 30, cannot tell"),
        ]
    )
    np.testing.assert_allclose(same, [1, 1, 1, 1, 1, 3, 3, 3, 0, 3, 3, 0, 0, 0])
    np.testing.assert_allclose(half[3:], [2 / 5, 2 / 3, 2, 3, 4, 1, 2, 0, 0, 0, 0])
    np.testing.assert_allclose(none[3:], [0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(numbers[-3:], [1, 2, 1])
    assert 0 < half[0] < 1
    assert none[0] == none[1] == 0


def test_words_are_aligned_as_by_loops():
    """In pieces of rows, whichever text comes first; an empty text has nothing to be found."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(9, 4)) * (np.arange(9) > 1)[:, None]
    counts = np.array([50, 7, 1, 2, 3, 4, 5, 6, 9])
    first = rng.integers(1, 9, (7, 5)) * (np.arange(5) < rng.integers(1, 6, (7, 1)))
    second = rng.integers(1, 9, (7, 6)) * (np.arange(6) < rng.integers(1, 7, (7, 1)))
    second[0] = 0

    def found(text, other):
        weights = [np.log((counts.sum() + 1) / (counts[word] + 1)) for word in text]
        best = []
        for word in text:
            cosines = [
                1.0
                if word == its
                else vectors[word]
                @ vectors[its]
                / max(np.linalg.norm(vectors[word]) * np.linalg.norm(vectors[its]), 1e-9)
                for its in other
            ]
            best.append(max([0.0, *cosines]))
        there = [word in other for word in text]
        total = max(sum(weights), 1e-6)
        missing = [weight * (1 - near) for weight, near in zip(weights, best, strict=True)]
        return [
            np.dot(weights, best) / total,
            np.dot(weights, there) / total,
            -max([0.0, *missing]),
        ]

    wanted = []
    for one, two in zip(first, second, strict=True):
        ends = [[word for word in row if word] for row in (one, two)]
        both = np.array([found(*ends), found(*ends[::-1])])
        wanted.append([*both.min(axis=0), *both.max(axis=0)])
    for pair in ((first, second), (second, first)):
        np.testing.assert_allclose(
            alike.aligned(*pair, vectors, counts), wanted, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("side", [36, 28, 18, 12])
def test_canvases_are_two_digits_overlaid(folder, side):
    splits = multimnist.multi_mnist(folder, train=30, validation=10, test=10, side=side)
    mnist = np.load(folder / "mnist.npz")
    for split, images, labels in (
        (splits.train, mnist["x_train"][20:], mnist["y_train"][20:]),
        (splits.validation, mnist["x_train"][:20], mnist["y_train"][:20]),
        (splits.test, mnist["x_test"], mnist["y_test"]),
    ):
        for image, label, (first, second) in zip(*split, strict=True):
            wanted = np.zeros((36, 36))
            wanted[:28, :28] = images[first]
            for row in range(28):
                for column in range(28):
                    ink = images[second][row, column]
                    wanted[row + 8, column + 8] = max(wanted[row + 8, column + 8], ink)
            fine = wanted.repeat(side, axis=0).repeat(side, axis=1)  # Both sides divide its own.
            wanted = fine.reshape(side, 36, side, 36).mean(axis=(1, 3)) / 255
            np.testing.assert_allclose(image, wanted, atol=1e-5)
            assert list(label) == [labels[first], labels[second]]


def test_mnist_is_fetched_where_no_folder_is_given(monkeypatch):
    monkeypatch.delenv(files.VARIABLE, raising=False)

    def fetch(name, **options):
        assert name == "mnist_784"
        labels = (np.arange(70_000) % 10).astype(str)
        return np.repeat(np.arange(70_000) % 256, 784).reshape(-1, 784).astype(np.uint8), labels

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    splits = multimnist.multi_mnist(None, train=5, validation=5, test=5)
    np.testing.assert_array_equal(splits.test.labels, splits.test.scans % 10)
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml", lambda *a, **k: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(UserError, match=r"could not be fetched.*mnist\.npz by --data-dir"):
        multimnist.multi_mnist(None, train=5, validation=5, test=5)


def test_the_census_gives_no_label_away(folder):
    splits, cardinalities = census.census(folder, validation=0.25)
    assert [len(split.labels) for split in splits] == [48, 16, 32]
    assert splits.train.numeric.shape[1] == len(census.NUMERIC)
    # Of the other columns only race is left: three categories and "unseen".
    assert cardinalities == (4,)
    assert set(np.unique(splits.train.categories[:, 0])) == {1, 2, 3}
    assert (splits.test.categories[:, 0] == 0).sum() == 4
    np.testing.assert_allclose(splits.train.numeric.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(splits.train.numeric.std(axis=0), 1, atol=1e-5)


def test_numbers_lie_in_bins_of_as_many_values():
    """Of the training rows alone, and never out of range; ties lie together, and none is 0."""
    rng = np.random.default_rng(0)
    ties = np.concatenate([np.zeros(577), 1.0 + np.arange(63)])

    def table(column, other):
        size = len(column)
        return Table(np.stack([column, other], 1), np.full((size, 1), 7), np.ones((size, 1)))

    train = table(rng.normal(size=640), ties)
    test = table(np.array([-9.0, 9.0]), np.array([-1.0, 99.0]))
    splits, cardinalities = binned(Splits(train, train, test), 32)
    same, bins, places = splits.train.categories.T
    assert set(same) == {7}
    np.testing.assert_array_equal(np.bincount(bins), [0] + [20] * 32)
    order = np.argsort(train.numeric[:, 0])
    assert (np.diff(bins[order]) >= 0).all()
    np.testing.assert_array_equal(np.bincount(places), [0, 578] + [2] * 31)
    assert splits.test.categories[:, 1:].tolist() == [[1, 1], [32, 32]]
    assert cardinalities == (33, 33)


def test_molecules_are_standardised_by_training_rows(folder):
    loaded = molecules.molecules(folder, validation=0.25)
    splits = loaded.splits
    # Constant and partly missing columns are gone.
    assert splits.train.descriptors.shape == (28, 4)
    assert len(splits.test.targets) == 10
    np.testing.assert_allclose(splits.train.targets.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(splits.train.targets.std(axis=0), 1, atol=1e-5)
    y = np.load(folder / "qm9_14k.npz")["y"]
    # Back in their units, the differences between test rows are those of the file.
    np.testing.assert_allclose(
        np.diff(splits.test.targets, axis=0) * loaded.scales, np.diff(y[::5], axis=0), rtol=1e-2
    )


def test_searches_stay_whole(folder):
    splits, cardinalities = aliexpress.aliexpress(folder, validation=0.25)
    assert [len(split.labels) for split in splits] == [54, 18, 24]
    assert cardinalities == (5,) * 16
    # Click and conversion come every second and every third row: both every sixth.
    np.testing.assert_allclose(splits.test.labels.mean(axis=0), [1 / 2, 1 / 6])
    train, held_out = (split.numeric.shape[0] % 3 for split in splits[:2])
    assert train == held_out == 0


@pytest.mark.parametrize(("spread", "deviation"), [("deviation", 10), ("variance", 10**0.5)])
def test_regressions_are_those_of_the_paper(spread, deviation):
    """Least squares on the powers of x find the matrices, W3 in both tasks, and leave the noise."""
    drawn = {"inputs": "normal", "scale": 1.0, "spread": spread}
    data = synthetic.regressions(train=1500, validation=1, test=1, **drawn).train
    x = data.x.astype(float)
    powers = np.hstack([x, x**2, x**3])
    found = []
    for y in np.moveaxis(data.y.astype(float), 1, 0):
        fit = np.linalg.solve(powers.T @ powers, powers.T @ y)
        left = (y - powers @ fit) * np.sqrt(1500 / (1500 - 750))
        np.testing.assert_allclose(left.std(), synthetic.NOISE, rtol=0.02)
        found.append(fit.reshape(3, 250, 100))
    for (linear, square, cube), mean, spread_of_own in zip(
        found, (1, 10), (1, deviation), strict=True
    ):
        for matrix in (linear, square):
            np.testing.assert_allclose(matrix.mean(), mean, rtol=0.03)
            np.testing.assert_allclose(matrix.std(), spread_of_own, rtol=0.03)
        np.testing.assert_allclose(cube.mean(), 10, rtol=0.03)
        np.testing.assert_allclose(cube.std(), deviation, rtol=0.03)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=0.1)
    assert np.abs(found[0][1] - found[1][1]).mean() > 1


def test_inputs_are_drawn_as_asked():
    drawn = {"scale": 0.5, "spread": "variance"}
    x = synthetic.regressions(train=40, validation=1, test=1, inputs="uniform", **drawn).train.x
    np.testing.assert_allclose([x.min(), x.max(), x.std()], [0, 0.5, 0.5 / 12**0.5], atol=0.01)
    x = synthetic.regressions(train=40, validation=1, test=1, inputs="normal", **drawn).train.x
    np.testing.assert_allclose([x.mean(), x.std()], [0, 0.5], atol=0.02)


def test_videos_are_split_in_the_order_of_time(folder):
    splits, cardinalities = tiktok.tiktok(folder, rare=1)
    assert [len(split.labels) for split in splits] == [84, 12, 24]
    table = np.loadtxt(folder / tiktok.FILE, dtype=int)
    columns = dict(zip(tiktok.COLUMNS, table.T, strict=True))
    for split, rows in ((splits.validation, slice(84, 96)), (splits.test, slice(96, 120))):
        labels = np.stack([columns["finish"], columns["like"]], axis=1)[rows]
        np.testing.assert_array_equal(split.labels, labels)
        logs = np.log1p(columns["duration"])
        scaled = (logs[rows] - logs[:84].mean()) / logs[:84].std()
        np.testing.assert_allclose(split.numeric[:, 0], scaled, rtol=1e-5)
        # Small whole numbers from -1 on, all of which are in the training rows.
        np.testing.assert_array_equal(split.categories[:, 2], columns["item_id"][rows] + 2)
    assert cardinalities == (7,) * 8


def test_rare_categories_are_one(folder):
    _, whole = tiktok.tiktok(folder, rare=1)
    splits, few = tiktok.tiktok(folder, rare=15)
    columns = np.loadtxt(folder / tiktok.FILE, dtype=int)[:84]
    for place, name in enumerate(tiktok.CATEGORIES):
        counts = np.unique(columns[:, tiktok.COLUMNS.index(name)], return_counts=True)[1]
        rare = (counts < 15).sum()
        assert few[place] == whole[place] - max(rare - 1, 0)
        assert splits.train.categories[:, place].max() < few[place]
    assert few != whole


def test_the_real_sample_of_videos_is_read(tmp_path):
    sample = files.given_folder(None)
    if sample is None:
        pytest.skip("MTL_OPTAX_DATA names no folder with it")
    splits, cardinalities = tiktok.tiktok(sample, rare=1)
    assert [len(split.labels) for split in splits] == [140, 20, 40]
    labels = np.concatenate([split.labels for split in splits])
    np.testing.assert_allclose(labels.mean(axis=0), [0.38, 0.035])
    assert cardinalities[0] <= 199
    assert cardinalities[5] <= 5


def test_a_week_before_each_day_is_counted_by_hand(folder):
    splits, _ = wechat.wechat(folder, rare=1)
    with (folder / wechat.FOLDER / wechat.ACTION_FILE).open() as lines:
        rows = [{k: int(v) for k, v in row.items()} for row in csv.DictReader(lines)]
    with (folder / wechat.FOLDER / wechat.FEED_FILE).open() as lines:
        seconds = {
            int(row["feedid"]): float(row["videoplayseconds"]) for row in csv.DictReader(lines)
        }

    def known(row):
        week = range(row["date_"] - 7, row["date_"])
        sums = [
            sum(
                other[action]
                for other in rows
                if other["date_"] in week and other[owner] == row[owner]
            )
            for owner in ("userid", "feedid")
            for action in wechat.ACTIONS
        ]
        return np.log1p([seconds[row["feedid"]], *sums])

    numeric = np.array([known(row) for row in rows])
    days = np.array([row["date_"] for row in rows])
    mean, spread = numeric[days < 13].mean(axis=0), numeric[days < 13].std(axis=0)
    for split, day in ((splits.validation, 13), (splits.test, 14)):
        wanted = (numeric[days == day] - mean) / np.where(spread > 0, spread, 1)
        np.testing.assert_allclose(split.numeric, wanted, rtol=1e-4, atol=1e-5)
        labels = [[row[task] for task in wechat.TASKS] for row in rows if row["date_"] == day]
        np.testing.assert_array_equal(split.labels, labels)
        users = [row["userid"] - 50 for row in rows if row["date_"] == day]
        np.testing.assert_array_equal(split.users, users)
    assert len(splits.train.labels) == 12 * 12


def test_a_feed_is_what_its_docstring_says():
    splits, cardinalities = ranking.ranking(users=30, videos=40, shown=6000)
    assert [len(split.labels) for split in splits] == [4200, 600, 1200]
    assert cardinalities == (31, 41, splits.train.categories[:, 2].max() + 1, 11)
    click, finish, seconds = splits.train.labels.T
    assert ((seconds > 0) == (click > 0)).all()
    assert (click >= finish).all()
    # All that was watched to the end took as long as the video.
    video = splits.train.categories[:, 1]
    for one in np.unique(video):
        whole = seconds[(video == one) & (finish == 1)]
        np.testing.assert_allclose(whole, whole.max(initial=0), rtol=1e-5)
        assert seconds[video == one].max() <= whole.max(initial=np.inf if not len(whole) else 0)
    position = splits.train.categories[:, 3]
    assert click[position == 1].mean() > click[position == 10].mean() + 0.1


def test_what_a_user_did_before_is_counted_by_hand():
    rng = np.random.default_rng(0)
    user, done = rng.integers(0, 3, 120), rng.integers(0, 2, 120)
    for row, share in enumerate(ranking._before(user, done)):
        before = done[:row][user[:row] == user[row]][-20:]
        assert share == pytest.approx(before.mean() if len(before) else 0)


WECHAT = f"{wechat.FOLDER}/{wechat.ACTION_FILE}"
FEEDS = f"{wechat.FOLDER}/{wechat.FEED_FILE}"
LOADERS = {
    topics.FILE: lambda f: topics.topics(f, vocabulary=9, length=5),
    reviews.FILE: lambda f: reviews.reviews(f, vocabulary=9, length=5),
    pairs.FILE: lambda f: pairs.pairs(f, vocabulary=9, buckets=1, length=5),
    multimnist.FILE: lambda f: multimnist.multi_mnist(f, train=5, validation=5, test=5),
    census.FILE: census.census,
    molecules.FILE: molecules.molecules,
    "aliexpress_test_small.csv": aliexpress.aliexpress,
    tiktok.FILE: tiktok.tiktok,
    WECHAT: wechat.wechat,
    FEEDS: wechat.wechat,
}


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "noise"])
def test_a_bad_file_is_one_clear_line(copied, name, damage):
    path = copied / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        cut = content[: len(content) // 2]
        if name.endswith((".csv", ".txt")):
            cut = cut[: max(cut.rindex(b","), 0) - 1] if b"," in cut else cut[: cut.rindex(b"\t")]
        path.write_bytes({"cut": cut, "empty": b"", "noise": bytes(range(128, 256)) * 9}[damage])
    with pytest.raises(UserError) as error:
        LOADERS[name](copied)
    message = str(error.value)
    assert "\n" not in message
    if damage == "missing":
        assert "It comes from" in message
        assert "format: " in message
    else:
        assert name in message


@pytest.mark.parametrize("name", [topics.FILE, reviews.FILE, pairs.FILE])
def test_bad_rows_are_named_by_their_line(copied, name):
    path = copied / name
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    for broken, message in (
        ("{", r"line 3: not JSON"),
        (
            json.dumps({"task": "comp", "split": "train", "label": 1}),
            r"line 3: no '(text|subject)'",
        ),
        ("[]", "line 3: no 'task'"),
    ):
        path.write_bytes(gzip.compress("\n".join([*lines[:2], broken, *lines[3:]]).encode()))
        with pytest.raises(UserError, match=message):
            LOADERS[name](copied)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (census.FILE, "age", "years", "no column 'age'"),
        (census.FILE, "train", "tarin", "'split' must have rows of 'train' and of 'test'"),
        ("aliexpress_train_small.csv", "numerical_63", "numerical_64", "no column 'numerical_63'"),
        ("aliexpress_train_small.csv", "\n0,", "\n0,0,", "line 2: 83 values, not 82"),
        (tiktok.FILE, "\n", "\t5\n", "13 columns, not 12: uid, user_city"),
        (tiktok.FILE, "\t0\t", "\t3\t", "column 'finish' must hold 0 and 1, not 3"),
        (
            WECHAT,
            "date_",
            "day",
            "its columns are userid, feedid, day.*wanted userid, feedid, date_",
        ),
        (WECHAT, ",13,", ",15,", "column 'date_' must lie between 1 and 14"),
        (WECHAT, ",13,", ",12,", "no row of day 13 in column 'date_'"),
        (FEEDS, "bgm_song_id", "song", "no column 'bgm_song_id'"),
        (FEEDS, "106", "107", "no row of the feedid 106"),
    ],
)
def test_wrong_columns_are_named(copied, name, old, new, message):
    path = copied / name
    content = path.read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    text = text.replace(old, new)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(UserError, match=message):
        LOADERS.get(name, aliexpress.aliexpress)(copied)


def test_numbers_that_are_none_are_named(copied):
    path = copied / "aliexpress_train_small.csv"
    lines = path.read_text().splitlines()
    lines[5] = ",".join(["0"] * 17 + ["much"] + ["0"] * 64)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="column 'numerical_1' must hold numbers.*much"):
        aliexpress.aliexpress(copied)


def test_a_pickle_is_not_opened(copied):
    np.savez(copied / molecules.FILE, desc=np.array([{}], object), y=1, task_names=1, is_test=1)
    with pytest.raises(UserError, match=r"qm9_14k\.npz: not a NumPy archive"):
        molecules.molecules(copied)


def ways_to_run_data(source):
    """Names in a module by which what is read from a file could run as code."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                modules = [getattr(node, "module", None), *(name.name for name in names)]
                yield from UNSAFE_MODULES & {str(module).partition(".")[0] for module in modules}
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                yield name
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield "allow_pickle"


UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, pickle", ["pickle"]),
        ("from joblib.memory import load", ["joblib"]),
        ("exec(open('a').read())", ["exec"]),
        ("numpy.load('a', allow_pickle=True)", ["allow_pickle"]),
        ("numpy.load('a', allow_pickle=False)", []),
    ],
)
def test_ways_to_run_data_are_found(source, found):
    assert list(ways_to_run_data(source)) == found


def test_no_code_runs_from_data():
    modules = [path for name in ("benchmarks", "mtl_optax") for path in (ROOT / name).rglob("*.py")]
    assert len(modules) > 50
    found = {str(path): list(ways_to_run_data(path.read_text("utf-8"))) for path in modules}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_folder_comes_from_the_option_or_the_environment(folder, tmp_path, monkeypatch):
    monkeypatch.delenv(files.VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"pass its folder by --data-dir or MTL_OPTAX_DATA"):
        molecules.molecules(None)
    monkeypatch.setenv(files.VARIABLE, str(folder))
    assert len(molecules.molecules(None).tasks) == 12
    with pytest.raises(UserError, match="no such file"):
        molecules.molecules(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "down 1 2 3\nelse 4 5 6\n",
        "down 1 2 3\r\n. . . 4 5 6\r\nat name@domain.com 7 8 9\r\n",
        "2 3\ndown 1 2 3 \nelse 4 5 6 \n",
        "else 4 5 6\n3/4 7 8 9\ndown 1e0 2 3.",
    ],
    ids=["GloVe", "words that hold spaces", "fastText", "no line's end"],
)
def test_word_vectors_are_read_from_files_as_they_are_published(content, tmp_path):
    words = [texts.PADDING, texts.UNKNOWN, "up", "down"]
    path = tmp_path / "vectors.txt"
    path.write_bytes(content.encode())
    vectors = texts.glove(path, words)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[[0, 3]], [[0, 0, 0], [1, 2, 3]])
    assert 0 < np.abs(vectors[1:3]).max() < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("up\n", "line 1: not a word and its numbers"),
        ("up 1 2 3\ndown 1 2\n", "line 2: not a word and 3 numbers, as the lines before it"),
        ("up 1 2 3\ndown 1 2 3 4\n", "line 2: not a word and 3 numbers"),
        ("up 1 2 3\ndown 1 two 3\n", "line 2: could not convert"),
        ("above 1 2 3\n", "none of its words is in the texts"),
        ("", "none of its words is in the texts"),
    ],
)
def test_what_is_wrong_with_a_file_of_word_vectors(content, message, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=f"--embeddings .*vectors.txt.*{message}"):
        texts.glove(path, [texts.PADDING, texts.UNKNOWN, "up", "down"])
    with pytest.raises(UserError, match=r"--embeddings .*none: no such file"):
        texts.glove(tmp_path / "none", ["up"])
