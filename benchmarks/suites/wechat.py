"""The suite ``wechat``: AdaTask's four answers to a video."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.problems.options import VideoSuite

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class WeChat(VideoSuite):
    """Comments read, likes, visits to the author and shares (AdaTask Tables 4 and 7).

    Needs user_action.csv and feed_info.csv of the WeChat Big Data Challenge of 2021.
    """

    name: ClassVar[str] = "wechat"
    weights: ClassVar = {"weighted": "wechat"}

    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, with its users, and the number of categories of each column."""
        from benchmarks.data.wechat import wechat

        return wechat(self.data_dir, rare=self.rare[self.preset])

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.wechat import TASKS

        return self.of_videos(TASKS)
