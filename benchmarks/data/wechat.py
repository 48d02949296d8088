"""Short videos in WeChat's channels: comments read, likes, visits to the author, and shares."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from benchmarks.data.files import given_folder, locate, numbers, read_csv, read_integers, yes_or_no
from benchmarks.data.splits import Splits
from benchmarks.data.tables import Raw, fitted
from benchmarks.errors import UserError

TASKS = ("read_comment", "like", "click_avatar", "forward")
ACTIONS = (*TASKS, "comment", "follow", "favorite")
# In the file's order.
COLUMNS = (
    "userid",
    "feedid",
    "date_",
    "device",
    "read_comment",
    "comment",
    "like",
    "play",
    "stay",
    "click_avatar",
    "forward",
    "follow",
    "favorite",
)
OF_FEED = ("authorid", "bgm_song_id", "bgm_singer_id")
FOLDER, ACTION_FILE, FEED_FILE = "wechat_algo_data1", "user_action.csv", "feed_info.csv"
DAYS, VALIDATION_DAY, TEST_DAY, WINDOW = 14, 13, 14, 7


def wechat(folder: Path | None, *, rare: int = 10) -> tuple[Splits, tuple[int, ...]]:
    """Four answers of a user to a video that was shown to him.

    Days 1 to 12 are for training, 13 for validation and 14 is the test split, as in AdaTask. Beside
    the categories stand the logarithms of one plus the video's seconds, and of one plus the number
    of times that its user, and that the video, had each of seven actions in the seven days before,
    as in the contest's baseline: no row tells of its own day.

    Args:
        folder: with user_action.csv and feed_info.csv, or with wechat_algo_data1 that has them.
        rare: categories of fewer training rows are one, as in AdaTask.

    Returns:
        The splits, with their users, and the number of categories of each column.
    """
    where = given_folder(folder)
    if where is not None and (where / FOLDER).is_dir():
        folder = where / FOLDER
    source = "the WeChat Big Data Challenge of 2021 (wechat_algo_data1.zip)"

    def file(name: str, columns: tuple[str, ...]) -> Path:
        form = f"CSV with the columns {', '.join(columns)}"
        return locate(folder, name, source=source, format=form)

    path = file(ACTION_FILE, COLUMNS)
    shown = read_integers(path, COLUMNS, separator=",", header=True)
    days = shown["date_"]
    if days.min() < 1 or days.max() > DAYS:
        raise UserError(f"{path}: column 'date_' must lie between 1 and {DAYS}, the days")
    actions = np.stack([yes_or_no(path, name, shown[name]) for name in ACTIONS], axis=1)
    feeds, places = _feeds(
        file(FEED_FILE, ("feedid", *OF_FEED, "videoplayseconds")), shown["feedid"]
    )
    users = np.unique(shown["userid"], return_inverse=True)[1]
    raw = Raw(
        np.concatenate(
            [
                np.log1p(feeds["videoplayseconds"])[places][:, None],
                np.log1p(_before(users, days, actions)),
                np.log1p(_before(places, days, actions)),
            ],
            axis=1,
        ),
        np.stack(
            [
                *(shown[name] for name in ("userid", "feedid", "device")),
                *(feeds[name][places] for name in OF_FEED),
            ],
            axis=1,
        ),
        actions[:, : len(TASKS)],
        users,
    )
    train = np.flatnonzero(days < VALIDATION_DAY)
    parts = [np.random.default_rng(0).permutation(train)]
    parts += [np.flatnonzero(days == day) for day in (VALIDATION_DAY, TEST_DAY)]
    for part, name in zip(parts, ("1 to 12", VALIDATION_DAY, TEST_DAY), strict=True):
        if not len(part):
            raise UserError(f"{path}: no row of day {name} in column 'date_'")
    return fitted(raw, parts, rare=rare)


def _feeds(
    path: Path, wanted: Int[np.ndarray, " n"]
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " n"]]:
    """What is known of the videos, an empty field as -1, and the place of each that is wanted."""
    text = read_csv(path, ("feedid", *OF_FEED, "videoplayseconds"), others=False)
    columns = {
        name: numbers(path, name, [value or "-1" for value in values])
        for name, values in text.items()
    }
    columns["videoplayseconds"] = np.maximum(columns["videoplayseconds"], 0)
    order = np.argsort(columns["feedid"])
    known = columns["feedid"][order]
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    if (missing := wanted[known[places] != wanted]).size:
        raise UserError(f"{path}: no row of the feedid {missing[0]}, which was shown to somebody")
    return columns, order[places]


def _before(
    owners: Int[np.ndarray, " n"], days: Int[np.ndarray, " n"], actions: Int[np.ndarray, "n a"]
) -> Float[np.ndarray, "n a"]:
    """How often each row's owner had the actions in the week before its day."""
    counts = np.zeros((owners.max() + 1, DAYS + 1, actions.shape[1]), np.int64)
    np.add.at(counts, (owners, days), actions)
    until = np.cumsum(counts, axis=1)
    first = np.maximum(days - 1 - WINDOW, 0)
    return (until[owners, days - 1] - until[owners, first]).astype(float)
