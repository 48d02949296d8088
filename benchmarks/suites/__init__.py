"""One file for each suite: its data, model and losses as a `Problem`."""

from benchmarks.suite import Suite
from benchmarks.suites.aliexpress import AliExpress
from benchmarks.suites.census import Census
from benchmarks.suites.cityscapes import CityScapes
from benchmarks.suites.digits import Digits
from benchmarks.suites.molecules import Molecules
from benchmarks.suites.multimnist import MultiMNIST
from benchmarks.suites.nyuv2 import NYUv2
from benchmarks.suites.paraphrase import Paraphrase
from benchmarks.suites.ranking import Ranking
from benchmarks.suites.reviews import Reviews
from benchmarks.suites.scenes import Scenes
from benchmarks.suites.synthetic import Synthetic
from benchmarks.suites.tiktok import TikTok
from benchmarks.suites.topic import Topic
from benchmarks.suites.wechat import WeChat

SUITES: tuple[type[Suite], ...] = (
    Digits,
    Synthetic,
    Topic,
    Reviews,
    Paraphrase,
    MultiMNIST,
    Scenes,
    NYUv2,
    CityScapes,
    Census,
    Molecules,
    AliExpress,
    Ranking,
    TikTok,
    WeChat,
)
