"""What `pytest --shapes` checks calls with; for it alone, since beartype need not be installed."""

import ast
import functools
import inspect
import pathlib
from collections.abc import Iterator

import jax
from beartype import BeartypeConf, FrozenDict, beartype

PACKAGE = pathlib.Path(__file__).parent.parent / "mtl_optax"

# An int is a float, as it is for mypy, and a hyper-parameter may be an array, or traced.
NUMBERS = FrozenDict({float: float | int | jax.Array})

called: set[str] = set()


def checked(function):
    """Checks the calls of a function that jaxtyping makes out of the signature of another.

    It makes two: one with the parameters alone, for before the call, and one with what was returned
    too. The second looks at everything, and at calls that have returned: those that the signature
    forbids may be refused by the function in its own words, as the tests of messages want, but
    may not go through.
    """
    if "ret0" not in inspect.signature(function).parameters:
        return function
    check = beartype(conf=BeartypeConf(hint_overrides=NUMBERS))(function)
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def checked_call(*args, **kwargs):
        called.add(name)
        return check(*args, **kwargs)

    return checked_call


def with_arrays() -> set[str]:
    """The full names of all functions of the package whose signatures have arrays."""
    return {
        f"{'.'.join(file.relative_to(PACKAGE.parent).with_suffix('').parts)}.{name}"
        for file in PACKAGE.rglob("*.py")
        for name in _with_arrays(ast.parse(file.read_text("utf-8")))
    }


def _with_arrays(module: ast.Module) -> Iterator[str]:
    imports = (node for node in ast.walk(module) if isinstance(node, ast.ImportFrom))
    arrays = {name.name for node in imports if node.module == "jaxtyping" for name in node.names}

    def walk(node: ast.AST, outside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inside = outside
            if isinstance(child, ast.ClassDef):
                inside = f"{outside}{child.name}."
            elif isinstance(child, ast.FunctionDef):
                inside = f"{outside}{child.name}.<locals>."
                signature = [child.args, child.returns or ast.Constant(None)]
                names = (n for part in signature for n in ast.walk(part) if isinstance(n, ast.Name))
                abstract = any(ast.unparse(d) == "abc.abstractmethod" for d in child.decorator_list)
                if not abstract and any(name.id in arrays for name in names):
                    yield f"{outside}{child.name}"
            yield from walk(child, inside)

    yield from walk(module, "")
