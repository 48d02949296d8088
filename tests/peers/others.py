"""Questions to the smaller libraries, about the same matrices as those to TorchJD and LibMTL."""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import torch
from conflictfree import length_model
from conflictfree.grad_operator import ConFIGOperator, IMTLGOperator, PCGradOperator
from gradnorm_pytorch import GradNormLossWeighter
from keras import config, ops
from softadapt import LossWeightedSoftAdapt, SoftAdapt
from torch_rechub.utils.mtl import MetaBalance

Question = tuple[str, str, dict[str, Any], Callable[[], Any]]

LENGTHS = (
    "ProjectionLength",
    "TrackMinimum",
    "TrackMaximum",
    "TrackHarmonicAverage",
    "TrackArithmeticAverage",
    "TrackGeometricAverage",
)


def questions(rows: Any) -> list[Question]:
    """Returns library, method, parameters and what computes its answer."""
    gradients, found = torch.tensor(rows), list[Question]()

    def add(library: str, method: str, compute: Callable[..., Any], **parameters: Any) -> None:
        found.append((library, method, parameters, lambda: compute(**parameters)))

    def config(length: str) -> Any:
        made = ConFIGOperator(length_model=getattr(length_model, length)())
        return made.calculate_gradient(gradients).numpy()

    for length in LENGTHS:
        add("conflictfree", "ConFIGOperator", config, length=length)
    for operator in (IMTLGOperator, PCGradOperator) if len(rows) == 2 else (IMTLGOperator,):
        asked = operator().calculate_gradient
        add("conflictfree", operator.__name__, lambda asked=asked: asked(gradients.clone()).numpy())

    def gradnorm(alpha: float) -> Any:
        """The weights after two steps, with a rate of a thousandth over the longest gradient."""
        theta = torch.nn.Parameter(torch.zeros(rows.shape[1]))
        made = GradNormLossWeighter(
            num_losses=len(rows),
            learning_rate=1e-3 / float(gradients.norm(dim=1).max()),
            restoring_force_alpha=alpha,
            grad_norm_parameters=theta,
        )
        for _ in range(2):
            made.backward(list(1 + gradients @ theta))
        return made.loss_weights.detach().numpy()

    add("gradnorm-pytorch", "GradNormLossWeighter", gradnorm, alpha=0.0)

    def balance(relax_factor: float) -> Any:
        theta = torch.nn.Parameter(torch.zeros(rows.shape[1]))
        MetaBalance([theta], relax_factor=relax_factor).step(list(gradients @ theta))
        return theta.grad.numpy()

    for factor in (0.7, 0.2):
        add("torch-rechub", "MetaBalance", balance, relax_factor=factor)

    def adapted(made: Any) -> Callable[..., Any]:
        def compute(beta: float) -> Any:
            """Of the sizes of a row's entries, as the losses of a task over as many epochs."""
            method = made(beta=beta, accuracy_order=1)
            return ops.convert_to_numpy(method.get_component_weights(*abs(rows)))

        return compute

    for made in (SoftAdapt, LossWeightedSoftAdapt):
        add("softadapt", made.__name__, adapted(made), beta=0.1)
    return found


config.set_floatx("float64")
