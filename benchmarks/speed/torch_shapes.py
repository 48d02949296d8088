"""The models of `shapes` in torch, trained by TorchJD's `mtl_backward` and autogram engine."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.speed import peers
from benchmarks.speed.shapes import ATTENTION_HEADS, BLOCKS, CONVOLUTIONS, Shape
from benchmarks.speed.timing import Work

RATE = 1e-3


def works(shape: Shape) -> dict[str, Work]:
    """Returns steps of torch alone and of TorchJD's MGDA, which stops after 100 rounds."""
    torch = peers.load()
    from torchjd.aggregation import MGDA, MGDAWeighting
    from torchjd.autogram import Engine
    from torchjd.autojac import jac_to_grad, mtl_backward

    trunk, head = _models(torch, shape)
    parameters = [*trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    inputs, targets = (torch.from_numpy(np.asarray(x)) for x in shape.batch)
    inputs = inputs.long() if inputs.dtype == torch.int32 else inputs

    def losses_of(features: Any) -> Any:
        return ((head(features) - targets) ** 2).mean(0)

    def equal() -> None:
        optimizer.zero_grad()
        losses_of(trunk(inputs)).sum().backward()
        optimizer.step()

    aggregator = MGDA()

    def through_features() -> None:
        optimizer.zero_grad()
        features = trunk(inputs)
        mtl_backward(list(losses_of(features)), features)
        jac_to_grad(trunk.parameters(), aggregator)
        optimizer.step()

    engine, weighting = Engine(trunk, head, batch_dim=None), MGDAWeighting()

    def autogram() -> None:
        optimizer.zero_grad()
        losses = losses_of(trunk(inputs))
        losses.backward(weighting(engine.compute_gramian(losses)))
        optimizer.step()

    made: dict[str, Work] = {"torch": equal, "mtl_backward": through_features}
    try:
        autogram()
    except Exception as error:  # What it cannot differentiate, it says itself.
        print(f"TorchJD's autogram engine does not take {shape.name}: {error}")
    else:
        made["autogram"] = autogram
    return made


def _models(torch: Any, shape: Shape) -> tuple[Any, Any]:
    made: dict[str, Callable[[], Any]] = {
        "MLP": lambda: _mlp(torch, shape),
        "rec": lambda: _recommender(torch, shape),
        "Tra": lambda: _transformer(torch, shape),
        "CNN": lambda: _cnn(torch, shape),
    }
    width = shape.params["heads"].shape[0]
    return made[shape.name[:3]](), torch.nn.Linear(width, shape.num_tasks, bias=False)


def _mlp(torch: Any, shape: Shape) -> Any:
    layers: list[Any] = []
    for name, weight in shape.params.items():
        if name.startswith("w"):
            layers += [torch.nn.Linear(*weight.shape), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


def _recommender(torch: Any, shape: Shape) -> Any:
    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(*shape.params["table"].shape)
            self.dense = torch.nn.Linear(*shape.params["w"].shape, bias=False)

        def forward(self, ids: Any) -> Any:
            return torch.relu(self.dense(self.table(ids).flatten(1)))

    return Trunk()


def _transformer(torch: Any, shape: Shape) -> Any:
    vocabulary, width = shape.params["table"].shape

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            linear = torch.nn.Linear
            self.first = torch.nn.LayerNorm(width, bias=False)
            self.second = torch.nn.LayerNorm(width, bias=False)
            self.qkv = linear(width, 3 * width, bias=False)
            self.out = linear(width, width, bias=False)
            self.up = linear(width, 4 * width, bias=False)
            self.down = linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            split = lambda z: z.unflatten(-1, (ATTENTION_HEADS, -1)).transpose(1, 2)
            q, k, v = map(split, self.qkv(self.first(x)).chunk(3, -1))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = x + self.out(mixed)
            z = torch.nn.functional.gelu(self.up(self.second(x)), approximate="tanh")
            return x + self.down(z)

    class Trunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(vocabulary, width)
            self.blocks = torch.nn.Sequential(*(Block() for _ in range(BLOCKS)))

        def forward(self, tokens: Any) -> Any:
            return self.blocks(self.table(tokens)).mean(1)

    return Trunk()


def _cnn(torch: Any, shape: Shape) -> Any:
    layers: list[Any] = []
    for channels in CONVOLUTIONS:
        layers += [torch.nn.Conv2d(*channels, 3, 2, 1, bias=False), torch.nn.ReLU()]
    flat, hidden = shape.params["w"].shape
    dense = torch.nn.Linear(flat, hidden, bias=False)

    class Trunk(torch.nn.Sequential):
        def forward(self, images: Any) -> Any:
            return super().forward(images.permute(0, 3, 1, 2))

    return Trunk(*layers, torch.nn.Flatten(), dense, torch.nn.ReLU())
