"""LibMTL's weightings without its models, at given task gradients."""

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import torch


@functools.cache
def weightings() -> Any:
    """Imports `LibMTL.weighting` without `LibMTL/__init__.py`."""
    spec = importlib.util.find_spec("LibMTL")
    assert spec is not None
    package = types.ModuleType("LibMTL")
    package.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["LibMTL"] = package
    return importlib.import_module("LibMTL.weighting")


def plain(weighting: Any, num_tasks: int, columns: int) -> Any:
    """Returns a LibMTL model with one shared vector, to which `losses_of` gives its gradients."""

    class Plain(weighting):
        def __init__(self) -> None:
            super().__init__()
            self.task_num, self.rep_grad = num_tasks, False
            self.device = torch.device("cpu")
            self.theta: Any = torch.nn.Parameter(torch.zeros(columns))
            self.init_param()

        def get_share_params(self) -> list[Any]:
            return [self.theta]

        def zero_grad_share_params(self) -> None:
            self.theta.grad.zero_()

        def step(self, gradients: Any, losses: Any, **parameters: Any) -> Any:
            self.zero_grad(set_to_none=False)
            linear = torch.tensor(losses) + torch.tensor(gradients) @ self.theta
            self.reported = self.backward(linear, **parameters)
            return self.theta.grad.detach().numpy().copy()

    return Plain()
