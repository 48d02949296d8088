"""What papers report for the methods compared here: not reproduced, copied with their source.

A number says what a method gave its authors on their data, network and number of epochs. Beside
ours it shows whether the order of the methods, and the size of what sets them apart, is alike; no
more, as ``protocol`` tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.methods import EQUAL_WEIGHTING, SINGLE_TASK


@dataclass(frozen=True)
class PaperResult:
    """One number of one table."""

    suite: str
    method: str
    """A name of the registry, a baseline, or one of `methods.COMPOSED`."""
    metric: str
    """What to set beside it: "mean", "Δm %" or "time" of our table, or the name of a metric."""
    value: float
    source: str
    """Authors, year and table."""
    protocol: str
    """What was trained, and how it differs from the suite."""
    setting: str = ""
    """What tells it from the same method's other rows, where there are several."""
    model: str = ""
    """The only network of the suite to set beside it; "": any."""


def _table(
    suite: str,
    metric: str,
    source: str,
    protocol: str,
    values: Mapping[str, float],
    setting: str = "",
    model: str = "",
) -> tuple[PaperResult, ...]:
    return tuple(
        PaperResult(suite, method, metric, value, source, protocol, setting, model)
        for method, value in values.items()
    )


def _columns(
    suite: str,
    metrics: Sequence[str],
    source: str,
    protocol: str,
    rows: Mapping[str, Sequence[float]],
    setting: str = "",
    model: str = "",
) -> tuple[PaperResult, ...]:
    """Methods with a value for each metric, or for the first ones."""
    return tuple(
        result
        for place, metric in enumerate(metrics)
        for result in _table(
            suite,
            metric,
            source,
            protocol,
            {method: row[place] for method, row in rows.items() if place < len(row)},
            setting,
            model,
        )
    )


# The averages as the tables print them. Their own columns average otherwise, by up to 1.1 points
# (getmtl: 92.37 and 90.66): the paper does not say why.
_CHAI = "Chai et al. 2023 (GetMTL), https://aclanthology.org/2023.acl-long.144"
_CHAI_PROTOCOL = "TextCNN, Adam at 1e-3, batches of 256, 3000 epochs, mean of 10 runs"
_SENER = "Sener and Koltun 2018 (MGDA-UB), https://arxiv.org/abs/1810.04650, Table 3"
_SENER_PROTOCOL = "two overlaid MNIST digits, LeNet; mgda on the gradients of the features"
_YUAN = "Yuan and Zhang 2023 (EMTL), https://arxiv.org/abs/2306.09373"
_YANG = "Yang et al. 2023 (AdaTask), https://arxiv.org/abs/2211.15055"
_YANG_PROTOCOL = (
    "all of the contest's data, shared bottom with towers of 128, 64 and 32, RMSProp at 1e-3, "
    "batches of 4096, until no gain in five epochs, mean of 3 seeds"
)
# Task A is "like", B "finish": tasks and weights are named together, "Like, Finish" and 7:3.
_VIDEOS = {
    EQUAL_WEIGHTING: (91.73, 74.37, 83.05, 86.52),
    "gradnorm": (91.82, 74.31, 83.07, 86.57),
    "pcgrad": (91.99, 74.13, 83.06, 86.63),
    "uw": (92.37, 73.51, 82.94, 86.71),
    "cagrad": (91.85, 74.55, 83.20, 86.66),
    "adatask": (93.12, 73.99, 83.56, 87.38),
}
_VIDEO_METRICS = ("like AUC %", "finish AUC %", "mean", "AdaTask's weighted AUC %")
# Which of our tasks are A to D is not stated. Weighted 1:2:3:4, but in the two rows of MMoE, which
# follow from 4:3:2:1 and so have no place in that column.
_ANSWERS = {
    EQUAL_WEIGHTING: (90.80, 89.12, 88.81, 95.14, 90.97, 91.60),
    "gradnorm": (94.08, 90.72, 88.40, 94.62, 91.96, 91.92),
    "uw": (96.45, 91.87, 86.54, 94.51, 92.34, 91.79),
    "pcgrad": (91.82, 89.87, 89.42, 95.20, 91.58, 92.06),
    "cagrad": (94.62, 93.13, 90.40, 95.38, 93.38, 93.36),
    "adatask": (96.43, 93.91, 89.20, 94.80, 93.59, 93.11),
}
_ANSWERS_BY_MMOE = {
    EQUAL_WEIGHTING: (91.26, 90.52, 88.98, 95.12, 91.47),
    "adatask": (95.68, 92.63, 89.49, 94.99, 93.20),
}
_ANSWER_METRICS = (*(f"{task} AUC %" for task in "ABCD"), "mean", "AdaTask's weighted AUC %")
_ANSWERS_PROTOCOL = (
    f"{_YANG_PROTOCOL}; which of its tasks A to D is which is not stated, so that only their mean "
    "has one of ours beside it"
)

# By country: CTR, CTCVR and their average as it is printed.
_SHOPS = {
    "": {
        "US": {SINGLE_TASK: (70.58, 86.37, 78.48)},
        "ES": {SINGLE_TASK: (72.52, 88.32, 80.42)},
        "FR": {SINGLE_TASK: (71.74, 87.02, 79.38)},
        "NL": {SINGLE_TASK: (72.03, 85.56, 78.80)},
    },
    "mmoe": {
        "US": {
            EQUAL_WEIGHTING: (70.53, 86.39, 78.46),
            "mgda": (70.60, 87.03, 78.82),
            "nash_mtl": (70.88, 87.23, 79.05),
            "imtl_g": (70.26, 86.43, 78.35),
            "uw": (70.50, 86.70, 78.60),
            "bandit_mtl": (70.73, 86.98, 78.85),
            "emtl": (71.40, 87.88, 79.64),
        },
        "ES": {
            EQUAL_WEIGHTING: (72.69, 88.99, 80.84),
            "mgda": (72.94, 89.01, 80.98),
            "nash_mtl": (72.85, 89.57, 81.21),
            "imtl_g": (72.75, 89.22, 80.98),
            "uw": (72.86, 89.32, 81.09),
            "bandit_mtl": (72.92, 89.49, 81.20),
            "emtl": (73.11, 89.66, 81.39),
        },
        "FR": {
            EQUAL_WEIGHTING: (72.26, 87.48, 79.87),
            "mgda": (72.79, 87.66, 80.22),
            "nash_mtl": (72.41, 87.77, 80.09),
            "imtl_g": (72.26, 87.42, 79.84),
            "uw": (72.48, 87.79, 80.13),
            "bandit_mtl": (72.84, 87.81, 80.33),
            "emtl": (72.74, 88.23, 80.48),
        },
        "NL": {
            EQUAL_WEIGHTING: (71.95, 78.70, 75.33),
            "mgda": (72.31, 86.08, 79.20),
            "nash_mtl": (72.55, 86.16, 79.35),
            "imtl_g": (72.37, 86.09, 79.23),
            "uw": (72.45, 86.14, 79.30),
            "bandit_mtl": (72.52, 86.10, 79.31),
            "emtl": (72.68, 86.28, 79.478),
        },
    },
    "ple": {
        "US": {
            EQUAL_WEIGHTING: (70.92, 86.99, 78.96),
            "mgda": (70.66, 86.74, 78.70),
            "nash_mtl": (70.67, 87.19, 78.94),
            "imtl_g": (70.87, 87.07, 78.97),
            "uw": (70.61, 86.70, 78.66),
            "bandit_mtl": (70.68, 86.78, 78.73),
            "emtl": (71.11, 87.25, 79.18),
        },
        "ES": {
            EQUAL_WEIGHTING: (72.68, 88.61, 80.65),
            "mgda": (72.78, 89.28, 81.03),
            "nash_mtl": (72.92, 89.29, 81.11),
            "imtl_g": (73.04, 88.97, 81.01),
            "uw": (72.91, 89.32, 81.12),
            "bandit_mtl": (72.92, 89.36, 81.14),
            "emtl": (73.02, 89.45, 81.23),
        },
        "FR": {
            EQUAL_WEIGHTING: (72.52, 86.79, 79.66),
            "mgda": (72.63, 88.06, 80.34),
            "nash_mtl": (72.28, 87.94, 80.11),
            "imtl_g": (72.55, 87.96, 80.26),
            "uw": (72.58, 87.84, 80.21),
            "bandit_mtl": (72.64, 87.81, 80.23),
            "emtl": (72.76, 88.24, 80.512),
        },
        "NL": {
            EQUAL_WEIGHTING: (72.68, 85.71, 79.20),
            "mgda": (72.49, 85.83, 79.16),
            "nash_mtl": (72.62, 86.42, 79.52),
            "imtl_g": (72.56, 86.45, 79.50),
            "uw": (72.41, 86.22, 79.32),
            "bandit_mtl": (72.41, 86.05, 79.23),
            "emtl": (72.66, 86.54, 79.60),
        },
    },
}

# By the columns of `pixels.METRICS`, in its units, and Δm.
_ROOMS = {
    SINGLE_TASK: (38.31, 63.76, 67.54, 27.80, 25.01, 19.21, 30.15, 57.20, 69.18),
    EQUAL_WEIGHTING: (39.29, 65.33, 54.93, 22.63, 28.15, 23.96, 22.09, 47.50, 61.08, 5.59),
    "scale_invariant": (38.45, 64.27, 53.54, 22.01, 27.60, 23.37, 22.53, 48.57, 62.32, 4.39),
    "rlw": (37.17, 63.77, 57.59, 24.10, 28.27, 24.18, 22.26, 47.05, 60.62, 7.88),
    "dwa": (39.17, 65.31, 55.10, 22.85, 27.61, 23.18, 24.17, 50.18, 62.39, 3.57),
    "uw": (36.87, 63.17, 54.46, 22.60, 27.04, 22.61, 23.54, 49.05, 63.65, 4.15),
    "bandit_mtl": (39.65, 65.03, 59.59, 24.36, 29.66, 25.83, 20.00, 44.00, 57.41, 10.79),
    "mgda": (30.47, 59.90, 60.70, 25.55, 24.98, 19.56, 29.09, 56.74, 69.21, 1.38),
    "pcgrad": (38.04, 64.64, 55.50, 23.25, 27.41, 22.80, 23.86, 49.83, 63.14, 3.97),
    "cagrad": (39.81, 65.49, 54.86, 22.50, 26.31, 21.58, 25.61, 52.36, 65.58, 0.43),
    "graddrop": (39.39, 65.12, 54.55, 22.79, 27.48, 22.96, 23.38, 49.44, 62.87, 3.66),
    "imtl_g": (39.25, 65.41, 54.36, 22.56, 26.02, 21.19, 26.20, 53.13, 66.24, -0.69),
    "nash_mtl": (40.07, 65.73, 53.48, 21.79, 25.26, 20.08, 28.40, 55.47, 68.15, -4.04),
    "emtl": (40.23, 65.53, 55.95, 21.55, 24.70, 19.28, 30.04, 57.24, 69.48, -5.40),
}
_ROOM_METRICS = (
    "mIoU %",
    "pixel accuracy %",
    "depth off cm",
    "depth off %",
    "normals off mean °",
    "normals off median °",
    "within 11.25° %",
    "within 22.5° %",
    "within 30° %",
    "Δm %",
)
# By the columns of `photographs.OF_STREETS`, in its units.
_STREETS = {
    EQUAL_WEIGHTING: (75.01, 93.40, 15.2, 47.00),
    "mgda": (69.42, 91.22, 16.6, 33.50),
    "gradnorm": (75.18, 93.38, 14.5, 44.16),
    "uw": (74.42, 93.05, 13.4, 36.66),
    "pcgrad": (75.46, 93.49, 15.0, 42.52),
    "cagrad": (75.30, 93.48, 14.1, 38.40),
    "adatask": (75.02, 93.40, 12.8, 36.85),
    "adatask+pcgrad": (74.76, 93.25, 12.7, 34.46),
    "adatask+cagrad": (73.17, 92.88, 13.3, 31.50),
}
# SegNet and other optimisers; Table 9 has MTAN's rows with Adam once more, Table 11 RMSProp's.
_PREFERRED = {
    "preferring segmentation": {"pareto_mtl": (74.97, 93.52, 15.4, 38.89)},
    "preferring depth": {"pareto_mtl": (75.18, 93.45, 14.9, 36.30)},
}
_STREETS_BY_SEGNET = {
    EQUAL_WEIGHTING: (70.23, 91.92, 19.8, 121.81),
    "adatask": (70.76, 92.03, 13.4, 45.53),
}
_STREETS_BY_RMSPROP = {
    EQUAL_WEIGHTING: (74.86, 93.43, 15.2, 44.63),
    "adatask": (74.05, 93.02, 13.2, 37.46),
}
_STREETS_BY_SGD = {EQUAL_WEIGHTING: (66.51, 90.89, 24.2, 115.35)}
_STREET_METRICS = ("mIoU %", "pixel accuracy %", "disparity off ‰", "disparity off relative")

# Task-normalised RMSE in the paper's words, times 100: A, B, and their mean as it is printed.
_REGRESSIONS = {
    EQUAL_WEIGHTING: (21.72, 1.13, 11.42),
    "gradnorm": (11.34, 2.26, 6.80),
    "uw": (20.32, 1.00, 10.66),
    "pcgrad": (22.21, 1.55, 11.88),
    "cagrad": (14.95, 1.40, 8.17),
    "adatask": (7.04, 4.17, 5.60),
    "layerwise_adatask": (9.89, 2.85, 6.37),
}

PAPER_RESULTS: tuple[PaperResult, ...] = (
    *_table(
        "topic",
        "mean",
        f"{_CHAI}, Table 2",
        f"{_CHAI_PROTOCOL}; 20 Newsgroups in four tasks of four groups each",
        {
            SINGLE_TASK: 90.43,
            EQUAL_WEIGHTING: 90.93,
            "uw": 90.87,
            "gradnorm": 90.70,
            "mgda": 91.20,
            "tchebycheff_adv": 90.87,
            "bandit_mtl": 91.26,
            "meta_weighting": 91.25,
            "getmtl": 92.09,
        },
    ),
    *_table(
        "reviews",
        "mean",
        f"{_CHAI}, Table 3",
        f"{_CHAI_PROTOCOL}; Amazon reviews of 14 kinds of product, 22,180 of them for training",
        {
            SINGLE_TASK: 86.52,
            EQUAL_WEIGHTING: 88.47,
            "uw": 88.74,
            "gradnorm": 88.01,
            "mgda": 88.30,
            "tchebycheff_adv": 87.71,
            "bandit_mtl": 88.78,
            "meta_weighting": 89.14,
            "getmtl": 89.80,
        },
    ),
    *_table(
        "multimnist",
        "upper left %",
        _SENER,
        _SENER_PROTOCOL,
        {SINGLE_TASK: 97.23, EQUAL_WEIGHTING: 96.46, "uw": 96.47, "gradnorm": 96.27, "mgda": 97.26},
    ),
    *_table(
        "multimnist",
        "lower right %",
        _SENER,
        _SENER_PROTOCOL,
        {SINGLE_TASK: 95.90, EQUAL_WEIGHTING: 94.99, "uw": 95.29, "gradnorm": 94.84, "mgda": 95.90},
    ),
    *_table(
        "molecules",
        "Δm %",
        "Navon et al. 2022 (Nash-MTL), https://arxiv.org/abs/2202.01017, Table 1",
        "11 properties of QM9, 110,000 molecules for training, message passing, mean of 3 seeds; "
        "Δm is the mean rise of the test error over single-task training: lower is better",
        {
            EQUAL_WEIGHTING: 177.6,
            "scale_invariant": 77.8,
            "rlw": 203.8,
            "dwa": 175.3,
            "uw": 108.0,
            "mgda": 120.5,
            "pcgrad": 125.7,
            "cagrad": 112.8,
            "imtl_g": 77.2,
            "nash_mtl": 62.0,
        },
    ),
    *_columns(
        "nyuv2",
        _ROOM_METRICS,
        f"{_YUAN}, Table 2",
        "Nash-MTL's program: MTAN, Adam at 1e-4, batches of 2, 200 epochs on all training "
        "pictures, of bandit_mtl and emtl the epoch with the best Δm on the test split; "
        "SegNets of single tasks; mean of 3 seeds",
        _ROOMS,
    ),
    *(
        result
        for model, countries in _SHOPS.items()
        for country, rows in countries.items()
        for result in _columns(
            "aliexpress",
            ("CTR AUC %", "CTCVR AUC %", "mean"),
            f"{_YUAN}, Table 1",
            "all data of a country, MMoE of 8 experts or PLE of 4 for all and 4 for each task, "
            "Adam at 1e-3, weight decay 1e-6, batches of 2048, the epoch with the best mean, mean "
            "of 5 seeds",
            rows,
            country,
            model,
        )
    ),
    *_columns(
        "ranking",
        ("click AUC %", "completion rate MSE", "watch time MSE"),
        f"{_YUAN}, Table 3",
        "a week of real views, 770 million of them; a DCN of the clicks alone beside MMoE; here "
        "views are made up, completion is yes or no, and watch time scored by R²",
        {
            SINGLE_TASK: (75.04,),
            EQUAL_WEIGHTING: (74.89, 0.3896, 13.5471),
            "emtl": (75.01, 0.3792, 12.3436),
        },
    ),
    *_columns(
        "cityscapes",
        _STREET_METRICS,
        f"{_YANG}, Table 1",
        "MTAN, Adam, on all of the training part, mean of 3 seeds",
        _STREETS,
        model="mtan",
    ),
    *(
        result
        for preferring, rows in _PREFERRED.items()
        for result in _columns(
            "cityscapes",
            _STREET_METRICS,
            f"{_YANG}, Table 8",
            "as in Table 1",
            rows,
            preferring,
            "mtan",
        )
    ),
    *_columns(
        "cityscapes",
        _STREET_METRICS,
        f"{_YANG}, Table 9",
        "as in Table 1 but for the network, a SegNet",
        _STREETS_BY_SEGNET,
        model="segnet",
    ),
    *_columns(
        "cityscapes",
        _STREET_METRICS,
        f"{_YANG}, Table 9",
        "as in Table 1, with RMSProp instead of Adam",
        _STREETS_BY_RMSPROP,
        "RMSProp",
        "mtan",
    ),
    *_columns(
        "cityscapes",
        _STREET_METRICS,
        f"{_YANG}, Table 11",
        "as in Table 1, with SGD instead of Adam",
        _STREETS_BY_SGD,
        "SGD",
        "mtan",
    ),
    *_columns("tiktok", _VIDEO_METRICS, f"{_YANG}, Table 3", _YANG_PROTOCOL, _VIDEOS),
    *_columns(
        "tiktok",
        _VIDEO_METRICS,
        f"{_YANG}, Table 6",
        _YANG_PROTOCOL,
        {"layerwise_adatask": (91.96, 74.46, 83.21, 86.71)},
    ),
    *_columns(
        "wechat",
        _ANSWER_METRICS,
        f"{_YANG}, Table 4",
        _ANSWERS_PROTOCOL,
        _ANSWERS,
        model="shared_bottom",
    ),
    *_columns(
        "wechat",
        _ANSWER_METRICS,
        f"{_YANG}, Table 7",
        f"{_ANSWERS_PROTOCOL}; MMoE of 4 experts in place of the shared bottom",
        _ANSWERS_BY_MMOE,
        model="mmoe",
    ),
    *_columns(
        "synthetic",
        ("A loss %", "B loss %", "mean"),
        f"{_YANG}, Tables 2 and 6",
        "times 100; in the paper a task-normalised RMSE; it leaves open how the rows of x "
        "are drawn, how many there are, and for how long it trained; mean of 3 runs",
        _REGRESSIONS,
    ),
    *_table(
        "synthetic",
        "time",
        f"{_YANG}, Table 10",
        "an epoch of CityScapes on a V100, with the authors' program",
        {"pcgrad": 1.38, "gradnorm": 1.39, "cagrad": 1.42, "mgda": 1.78, "adatask": 1.33},
    ),
)
