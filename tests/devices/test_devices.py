"""Sharded parameters, gradients and batches: the numbers of one device, and little to move."""

import pytest

from tests.common import run_on_devices


@pytest.mark.parametrize("checks", [["methods"], ["ways", "unstacked", "diagnostics", "shard_map"]])
def test_on_eight_devices(checks):
    run_on_devices(8, "-m", "tests.devices.eight_devices", *checks)
