"""The models of `steps` in torch, of the same sizes, trained by `mtl_backward`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.speed import peers
from benchmarks.speed.sizes import MLP, PAIRS, RATE, TEXT
from benchmarks.train.problem import Problem


class Steps(NamedTuple):
    """Two training steps of one model."""

    equal: Callable[[], Any]
    """On the sum of the losses."""
    aggregated: Callable[[Any], Any]
    """With an aggregator of TorchJD."""


def steps(model: str, problem: Problem) -> Steps:
    """Makes the torch model of that name, and its steps on the problem's data."""
    torch = peers.load()
    from torchjd.autojac import jac_to_grad, mtl_backward

    trunk, width = {
        "mlp": lambda: _mlp(torch, **MLP),
        "text_cnn": lambda: _text_cnn(torch, **TEXT),
        "transformer": lambda: _pairs(torch, **PAIRS),
    }[model]()
    heads = [torch.nn.Linear(width, 1) for _ in range(problem.num_tasks)]
    parameters = [p for module in (trunk, *heads) for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    inputs = [torch.from_numpy(np.asarray(x)) for x in problem.train["inputs"]]
    targets = torch.from_numpy(problem.train["targets"])
    if not problem.separate:
        targets = targets.T

    def losses_and_features() -> tuple[list[Any], list[Any]]:
        if problem.separate:
            features = [trunk(*(x[t] for x in inputs)) for t in range(problem.num_tasks)]
            of_task = features
        else:
            features = [trunk(*inputs)]
            of_task = features * problem.num_tasks
        losses = [
            ((head(z)[:, 0] - y) ** 2).mean()
            for head, z, y in zip(heads, of_task, targets, strict=True)
        ]
        return losses, features

    def equal() -> None:
        optimizer.zero_grad()
        losses, _ = losses_and_features()
        sum(losses).backward()
        optimizer.step()

    def aggregated(aggregator: Any) -> None:
        optimizer.zero_grad()
        losses, features = losses_and_features()
        mtl_backward(losses, features)
        jac_to_grad(trunk.parameters(), aggregator)
        optimizer.step()

    return Steps(equal, aggregated)


def _mlp(torch: Any, inputs: int, widths: tuple[int, ...]) -> tuple[Any, int]:
    layers: list[Any] = []
    for before, after in zip((inputs, *widths), widths, strict=False):
        layers += [torch.nn.Linear(before, after), torch.nn.ELU()]
    return torch.nn.Sequential(*layers), widths[-1]


def _text_cnn(
    torch: Any, vocabulary: int, embedding: int, channels: int, widths: tuple[int, ...]
) -> tuple[Any, int]:
    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(vocabulary, embedding)
            self.convolutions = torch.nn.ModuleList(
                torch.nn.Conv1d(embedding, channels, width, padding=width - 1) for width in widths
            )

        def forward(self, tokens: Any) -> Any:
            vectors = self.embed(tokens).transpose(1, 2)
            return torch.cat([torch.relu(c(vectors)).amax(2) for c in self.convolutions], dim=1)

    return Trunk(), channels * len(widths)


def _pairs(
    torch: Any,
    vocabulary: int,
    length: int,
    layers: int,
    attention_heads: int,
    width: int,
    hidden: int,
) -> tuple[Any, int]:
    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(vocabulary, width)
            self.positions = torch.nn.Parameter(torch.zeros(length, width))
            self.blocks = torch.nn.ModuleList(
                torch.nn.TransformerEncoderLayer(
                    width, attention_heads, hidden, 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            )

        def forward(self, first: Any, second: Any) -> Any:
            states = self.embed(torch.cat([first, second])) + self.positions
            for block in self.blocks:
                states = block(states)
            u, v = states.mean(1).chunk(2)
            return torch.cat([u, v, (u - v).abs(), u * v], dim=1)

    return Trunk(), 4 * width
