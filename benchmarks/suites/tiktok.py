"""The suite ``tiktok``: AdaTask's finished and liked videos."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.problems.options import VideoSuite

if TYPE_CHECKING:
    from benchmarks.data.splits import Splits
    from benchmarks.train.problem import Problem


@dataclass(frozen=True, kw_only=True)
class TikTok(VideoSuite):
    """Finished and liked videos (AdaTask Table 3).

    Needs final_track2_train.txt of ICME 2019, or the sample of 200 rows of it.
    """

    name: ClassVar[str] = "tiktok"
    # Contest and paper weigh the two tasks the opposite way.
    weights: ClassVar = {"weighted": "tiktok", "AdaTask's weighted": "tiktok_adatask"}

    def load(self) -> "tuple[Splits, tuple[int, ...]]":
        """The table, and the number of categories of each column."""
        from benchmarks.data.tiktok import tiktok

        return tiktok(self.data_dir, rare=self.rare[self.preset])

    def problem(self) -> "Problem":
        """The table, the backbone and their losses."""
        from benchmarks.data.tiktok import TASKS

        return self.of_videos(TASKS)
