"""The simplest thing that works: a model of scikit-learn for each task alone, on the same split.

Whatever a model has to choose is chosen on the validation split.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.data.splits import Splits
from benchmarks.data.texts import padded
from benchmarks.train.problem import Baseline

Answers = tuple[np.ndarray, np.ndarray]
"""On the validation split, and on the test split."""
MOST_CATEGORIES = 255  # Of a column that scikit-learn's trees split by category.
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)  # C of a linear model.


def best(candidates: Iterable[Answers], worth: Callable[[np.ndarray], float]) -> Answers:
    """The candidate whose answers on the validation split are worth most."""
    return max(candidates, key=lambda answers: worth(answers[0]))


def joint(tasks: Sequence[Answers]) -> Answers:
    """The answers of all tasks about the same rows: ``(n, t, ...)``."""
    validation, test = zip(*tasks, strict=True)
    return np.stack(validation, axis=1), np.stack(test, axis=1)


def separate(tasks: Sequence[Answers]) -> Answers:
    """The answers of each task about rows of its own, padded: ``(t, n, ...)``."""
    validation, test = zip(*tasks, strict=True)
    return padded(validation)[0], padded(test)[0]


def of_each_task(values: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
    """The rows of each task that are no padding."""
    return [row[there] for row, there in zip(values, present, strict=True)]


def boosted_tables(
    splits: Splits, cardinalities: Sequence[int], is_number: Sequence[bool]
) -> Baseline:
    """Gradient boosting for each question about the rows of a table, or for each number."""

    def answers() -> Answers:
        inputs = Splits(*(np.hstack([table.numeric, table.categories]) for table in splits))
        first = splits.train.numeric.shape[1]
        few = [first + i for i, n in enumerate(cardinalities) if n <= MOST_CATEGORIES]
        tasks = []
        for task, number in enumerate(is_number):
            labels = Splits(*(split.labels[:, task] for split in splits))
            tasks.append(
                _boosted_regressor(inputs, labels)
                if number
                else _boosted_classifier(inputs, labels, few)
            )
        return joint(tasks)

    return Baseline("HistGradientBoostingClassifier" + ", -Regressor" * any(is_number), answers)


def _boosted_classifier(inputs: Splits, labels: Splits, categories: Sequence[int]) -> Answers:
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(set(labels.train.tolist())) == 1:  # There is nothing to tell apart.
        return np.zeros(len(labels.validation)), np.zeros(len(labels.test))
    model = HistGradientBoostingClassifier(
        max_iter=200, early_stopping=False, categorical_features=categories, random_state=0
    ).fit(inputs.train, labels.train)
    stages = zip(
        model.staged_decision_function(inputs.validation),
        model.staged_decision_function(inputs.test),
        strict=True,
    )
    signs = 2 * labels.validation - 1
    return best(stages, lambda logits: -np.logaddexp(0, -signs * logits.ravel()).mean())


def boosted_regressions(inputs: Splits, targets: Splits) -> Baseline:
    """Gradient boosting for each target of the rows, by squared error."""

    def answers() -> Answers:
        return joint(
            [
                _boosted_regressor(inputs, Splits(*(part[:, task] for part in targets)))
                for task in range(targets.train.shape[1])
            ]
        )

    return Baseline("HistGradientBoostingRegressor", answers)


def _boosted_regressor(inputs: Splits, targets: Splits) -> Answers:
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(max_iter=300, early_stopping=False, random_state=0)
    model.fit(inputs.train, targets.train)
    stages = zip(
        model.staged_predict(inputs.validation), model.staged_predict(inputs.test), strict=True
    )
    return best(stages, lambda found: -np.abs(found - targets.validation).mean())


def linear_texts(texts: Splits, labels: Splits, classes: int) -> Baseline:
    """A linear support vector machine on the words and word pairs of each task's texts.

    Args:
        texts: of each split a list of texts for each task.
        labels: of each split an array for each task.
        classes: how many labels there are.
    """

    def task(number: int) -> Answers:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.svm import LinearSVC

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        train = words.fit_transform(texts.train[number])
        others = [words.transform(part[number]) for part in (texts.validation, texts.test)]

        def candidates() -> Iterable[Answers]:
            for strength in STRENGTHS:
                model = LinearSVC(C=strength, random_state=0).fit(train, labels.train[number])
                validation, test = (
                    _each_class(model.decision_function(rows), model.classes_, classes)
                    for rows in others
                )
                yield validation, test

        wanted = labels.validation[number]
        return best(candidates(), lambda scores: (scores.argmax(axis=-1) == wanted).mean())

    return Baseline(
        "TF-IDF of words and word pairs, LinearSVC",
        lambda: separate([task(number) for number in range(len(texts.train))]),
    )


def support_vectors(canvases: Splits, classes: int, *, rows: int) -> Baseline:
    """A support vector machine with a Gaussian kernel on the pixels of the first canvases.

    Where these have slants, others tell both, as the first numbers of a third row.

    Args:
        canvases: with ``images``, ``labels``, and perhaps ``slants``.
        classes: how many labels there are.
        rows: how many training canvases are used at most.
    """

    def answers() -> Answers:
        from sklearn.svm import SVC, SVR

        flat = Splits(*(part.images.reshape(len(part.images), -1) for part in canvases))
        tasks = []
        for labels in canvases.train.labels[:rows].T:
            model = SVC(C=10).fit(flat.train[:rows], labels)
            validation, test = (
                _each_class(model.decision_function(part), model.classes_, classes)
                for part in (flat.validation, flat.test)
            )
            tasks.append((validation, test))
        if hasattr(canvases.train, "slants"):
            models = [
                SVR(C=100).fit(flat.train[:rows], slants)
                for slants in canvases.train.slants[:rows].T
            ]
            validation, test = (
                np.pad(
                    np.stack([model.predict(part) for model in models], axis=1),
                    ((0, 0), (0, classes - len(models))),
                )
                for part in (flat.validation, flat.test)
            )
            tasks.append((validation, test))
        return joint(tasks)

    few = f" of {rows:,} canvases" if rows < len(canvases.train.labels) else ""
    return Baseline(f"a support vector machine with a Gaussian kernel on the pixels{few}", answers)


def boosted_pixels(scenes: Splits, *, rows: int) -> Baseline:
    """Gradient boosting for each number that is to be told of a pixel, on its colour and place.

    Args:
        scenes: with ``images``, ``labels``, ``depths`` and ``normals``.
        rows: how many pixels of the training pictures are used at most.
    """

    def seen(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "p 8"]:
        places = np.moveaxis(np.indices(images.shape[1:3]), 0, -1)
        means = images.mean(axis=(1, 2), keepdims=True)
        parts = [np.broadcast_to(x, (*images.shape[:3], x.shape[-1])) for x in (places, means)]
        return np.concatenate([images, *parts], axis=-1).reshape(-1, 8)

    def answers() -> tuple[Any, Any]:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        train = scenes.train
        inputs = seen(train.images)
        known = np.flatnonzero(train.labels.reshape(-1) >= 0)
        some = np.random.default_rng(0).permutation(known)[:rows]
        how: dict[str, Any] = {"max_iter": 50, "early_stopping": False, "random_state": 0}
        model = HistGradientBoostingClassifier(**how).fit(
            inputs[some], train.labels.reshape(-1)[some]
        )
        numbers = [train.depths.reshape(-1, 1), train.normals.reshape(-1, 3)]
        targets = np.concatenate(numbers, axis=1)[some].T
        models = [HistGradientBoostingRegressor(**how).fit(inputs[some], y) for y in targets]

        def told(split: Any) -> dict[str, np.ndarray]:
            shape, pixels = split.labels.shape, seen(split.images)
            depth, *normal = (model.predict(pixels).reshape(shape) for model in models)
            return {
                "segmentation": model.predict(pixels).reshape(shape).astype(np.int8),
                "depth": depth[..., None],
                "normals": np.stack(normal, axis=-1),
            }

        return told(scenes.validation), told(scenes.test)

    return Baseline(
        "HistGradientBoostingClassifier, -Regressor on the colour and place of a pixel and the "
        f"mean colour of the picture, {rows:,} pixels",
        answers,
    )


def _each_class(
    scores: np.ndarray, found: np.ndarray, classes: int
) -> Float[np.ndarray, "n classes"]:
    """A column for each class, also for those that the training rows lack."""
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    result = np.full((len(scores), classes), scores.min() - 1)
    result[:, found.astype(int)] = scores
    return result


def ridge(inputs: Splits, targets: Splits) -> Baseline:
    """Ridge regression of ``(n, t, d)`` targets, each task's alone, on powers of the inputs."""

    def answers() -> Answers:
        from sklearn.linear_model import Ridge

        powers = Splits(*(np.hstack([x, x**2, x**3]) for x in inputs))

        def candidates(task: int) -> Iterable[Answers]:
            for strength in 10.0 ** np.arange(-4, 5):
                model = Ridge(strength).fit(powers.train, targets.train[:, task])
                yield model.predict(powers.validation), model.predict(powers.test)

        def worth(task: int, found: np.ndarray) -> float:
            return -float(((found - targets.validation[:, task]) ** 2).mean())

        tasks = range(targets.train.shape[1])
        return joint([best(candidates(task), partial(worth, task)) for task in tasks])

    return Baseline("Ridge on (x, x², x³)", answers)


def pairs_of_texts(alike: Splits, targets: Splits, binary: Sequence[bool]) -> Baseline:
    """Gradient boosting on what two texts have in common.

    Args:
        alike: of each split an array for each task, with a row of `Overlap` for each pair.
        targets: of each split an array for each task.
        binary: whether a task's targets are yes or no, rather than numbers.
    """

    def task(number: int) -> Answers:
        inputs = Splits(*(part[number] for part in alike))
        wanted = Splits(*(part[number] for part in targets))
        if binary[number]:
            return _boosted_classifier(inputs, wanted, [])
        return _boosted_regressor(inputs, wanted)

    return Baseline(
        "overlap and TF-IDF cosines of the two texts, gradient boosting",
        lambda: separate([task(number) for number in range(len(binary))]),
    )
