"""The suite ``wechat``: AdaTask's four answers to a video."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.problems.options import VideoSuite

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits


@dataclass(frozen=True, kw_only=True)
class WeChat(VideoSuite):
    """Comments read, likes, visits to the author and shares (AdaTask Tables 4 and 7).

    Needs user_action.csv and feed_info.csv of the WeChat Big Data Challenge of 2021.
    """

    name: ClassVar[str] = "wechat"
    tasks: ClassVar = ("read_comment", "like", "click_avatar", "forward")
    weights: ClassVar = {"read_comment": 0.4, "like": 0.3, "click_avatar": 0.2, "forward": 0.1}

    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, with its users, and the number of categories of each column."""
        from benchmarks.data.wechat import wechat

        return wechat(self.data_dir, rare=self.rare[self.preset])
