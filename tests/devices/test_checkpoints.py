"""Orbax saves every method's state on one mesh and restores it there and elsewhere."""

from tests.common import run_on_devices


def test_training_goes_on_from_a_checkpoint_on_any_mesh(tmp_path):
    run_on_devices(8, "-m", "tests.devices.training_on_meshes", str(tmp_path))
