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

    inputs, targets = (torch.from_numpy(np.asarray(x)) for x in shape.batch)
    inputs = inputs.long() if inputs.dtype == torch.int32 else inputs

    def step(gradients: Callable[[Any, Any, Callable[..., Any]], None], prepare: Any) -> Work:
        trunk, heads = _models(torch, shape)  # The engine leaves its hooks in its own.
        optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=RATE)
        prepared = prepare(trunk)

        def losses_of(features: Any) -> list[Any]:
            pairs = zip(heads, targets.T, strict=True)
            return [((head(features)[:, 0] - y) ** 2).mean() for head, y in pairs]

        def work() -> None:
            optimizer.zero_grad()
            gradients(prepared, trunk, losses_of)
            optimizer.step()

        return work

    def equal(_: Any, trunk: Any, losses_of: Callable[..., Any]) -> None:
        sum(losses_of(trunk(inputs))).backward()

    def through_features(mgda: Any, trunk: Any, losses_of: Callable[..., Any]) -> None:
        features = trunk(inputs)
        mtl_backward(losses_of(features), features)
        jac_to_grad(trunk.parameters(), mgda)

    def autogram(prepared: Any, trunk: Any, losses_of: Callable[..., Any]) -> None:
        engine, weighting = prepared
        losses = torch.stack(losses_of(trunk(inputs)))
        losses.backward(weighting(engine.compute_gramian(losses)))

    made = {
        "torch": step(equal, lambda trunk: None),
        "mtl_backward": step(through_features, lambda trunk: MGDA()),
    }
    engine = step(autogram, lambda trunk: (Engine(trunk, batch_dim=None), MGDAWeighting()))
    try:
        engine()
    except (ValueError, RuntimeError) as error:  # What it cannot differentiate, it says itself.
        print(f"TorchJD's autogram engine does not take {shape.name}: {error}")
    else:
        made["autogram"] = engine
    return made


def _models(torch: Any, shape: Shape) -> tuple[Any, Any]:
    made: dict[str, Callable[[], Any]] = {
        "MLP": lambda: _mlp(torch, shape),
        "rec": lambda: _recommender(torch, shape),
        "Tra": lambda: _transformer(torch, shape),
        "CNN": lambda: _cnn(torch, shape),
    }
    width = shape.params["heads"].shape[0]
    heads = [torch.nn.Linear(width, 1, bias=False) for _ in range(shape.num_tasks)]
    return made[shape.name[:3]](), torch.nn.ModuleList(heads)


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
