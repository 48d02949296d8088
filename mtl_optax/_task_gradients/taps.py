"""Where parameters meet data in a program, and the cotangents there.

Where a weight meets data, `y = x W`, the gradient of a loss is `xᵀ D`, with `D` its cotangent at
`y`. A tap of zeros added to `y` has `D` as its gradient, and `x` is there to be read: the gradient
need not be made. This file finds such sites in the program of the losses, in its loops too, and
runs the program with taps. A parameter that is used in any other way is differentiated itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jaxtyping import Array

from mtl_optax._tracing import inner_programs, zeros_like_type

# Operations that keep the inner product of what they are applied to.
_ISOMETRIC = {
    "convert_element_type",
    "copy",
    "expand_dims",
    "name",
    "neg",
    "reshape",
    "rev",
    "squeeze",
    "transpose",
}
# Operations that hold a program which runs once.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_REMAT = {"checkpoint", "remat", "remat2"}


class View(NamedTuple):
    """A value that is made of one parameter alone, and keeps its inner product.

    Attributes:
        leaf: the parameter's number.
        made: the operations that it is made by.
        scanned: for each scan around it, whether the scan runs over it.
    """

    leaf: int
    made: tuple[Any, ...]
    scanned: tuple[bool, ...]

    def of(self, parameter: Array) -> Array:
        """Makes the view, with an axis in front for each scan that runs over it."""
        value, depth = parameter, 0
        for step in self.made:
            if step is _SCANNED:
                depth += 1
                continue
            apply = step.apply
            for _ in range(depth):
                apply = jax.vmap(apply)
            value = apply(value)
        return value


_SCANNED = "scanned"


class _Step(NamedTuple):
    """An operation on a view, which equals another that does the same."""

    name: str
    params: str
    eqn: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Step) and self[:2] == other[:2]

    def __hash__(self) -> int:
        return hash(self[:2])

    def apply(self, value: Array) -> Array:
        return bind(self.eqn, [value])


class Site(NamedTuple):
    """A place where a parameter meets data.

    Attributes:
        number: its own.
        kind: "dot", "gather" or "mark".
        view: what is used of the parameter there; None at a mark.
        weight: the position of the view among the operands.
        params: those of the operation.
        shapes: of the view, of the other operand and of the result, without loops.
        lengths: those of the scans around it.
        result: the type of the result, without loops.
    """

    number: int
    kind: str
    view: Any
    weight: int
    params: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    lengths: tuple[int, ...]
    result: Any

    def tap(self) -> Array:
        """Returns the zeros that are added to the result, and lie where it lies."""
        return zeros_like_type(self.result, self.lengths)

    @property
    def layout(self) -> Any:
        """Says how the site uses its parameter: the sites of one layout are one with more rows."""
        if self.kind == "gather":
            return self.kind, self.view.made
        precision = self.params["precision"]
        return self.kind, self.view.made, *_weight_axes(self), self.result.dtype, precision


Plan = dict[int, Any]  # The sites and the inner plans, by the numbers of the equations.


class _Program(NamedTuple):
    """A program inside an operation, and the arrays that it holds."""

    jaxpr: Any
    consts: Sequence[Any]


class _Scan(NamedTuple):
    body: _Program
    consts: int
    carries: int
    length: int


def find_sites(
    closed: Any, shared: Sequence[bool], wanted: Callable[[list[Site]], bool]
) -> tuple[Plan, dict[int, list[Site]]]:
    """Finds the sites of the parameters that are used at sites of one layout alone.

    Args:
        closed: the program of the losses, which are its first result.
        shared: for each argument, whether it is a parameter to find sites of.
        wanted: says of all sites of a parameter whether they are to be tapped.

    Returns:
        the plan for `run`, and the sites of each tapped parameter.
    """
    direct = {leaf for leaf, pick in enumerate(shared) if not pick}
    while True:
        search = _Search(direct)
        views = [View(n, (), ()) if n not in direct else None for n in range(len(shared))]
        plan, results = search.walk(_program(closed).jaxpr, views, ())
        if results[0]:  # The losses are a parameter itself.
            search.direct.add(results[0].leaf)
        by_leaf: dict[int, list[Site]] = {
            leaf: [] for leaf in range(len(shared)) if leaf not in direct
        }
        for site in search.sites:
            by_leaf[site.view.leaf].append(site)
        for leaf, sites in by_leaf.items():
            one_layout = len({site.layout for site in sites}) == 1
            if leaf not in search.direct and not (one_layout and wanted(sites)):
                search.direct.add(leaf)
        if search.direct == direct:
            return plan, by_leaf
        # What is differentiated itself is data to the others.
        direct = search.direct


def find_marks(closed: Any, mark: str) -> tuple[Plan, list[Site]]:
    """Finds the arrays that were given the name `mark`, for `run` to tap them.

    Raises:
        LookupError: where one stands in a branch, in a loop with a condition, or in a function with
            derivatives of its own, which run whole.
    """
    marks: list[Site] = []

    def walk(jaxpr: Any, lengths: tuple[int, ...]) -> Plan:
        plan: Plan = {}
        for number, eqn in enumerate(jaxpr.eqns):
            if eqn.primitive.name == "name" and eqn.params["name"] == mark:
                aval = eqn.invars[0].aval
                shapes = ((), aval.shape, aval.shape)
                site = Site(len(marks), "mark", None, 1, {}, shapes, lengths, eqn.outvars[0].aval)
                plan[number] = site
                marks.append(site)
            elif inner := _called(eqn):
                plan[number] = walk(inner.jaxpr, lengths)
            elif scan := _scan(eqn):
                plan[number] = walk(scan.body.jaxpr, (*lengths, scan.length))
            elif has_mark(eqn.params.values(), mark):
                raise LookupError(eqn.primitive.name)
        return plan

    return walk(_program(closed).jaxpr, ()), marks


def has_mark(values: Any, mark: str) -> bool:
    """Whether a mark stands in one of the programs among the parameters of an operation."""
    return any(
        (eqn.primitive.name == "name" and eqn.params["name"] == mark)
        or has_mark(eqn.params.values(), mark)
        for program in inner_programs(values)
        for eqn in program.eqns
    )


class _Search:
    def __init__(self, direct: set[int]) -> None:
        self.direct = set(direct)
        self.sites: list[Site] = []

    def walk(
        self, jaxpr: Any, views: Sequence[View | None], lengths: tuple[int, ...]
    ) -> tuple[Plan, list[View | None]]:
        known = dict(zip(jaxpr.invars, views, strict=True))
        look = lambda var: None if isinstance(var, Literal) else known.get(var)
        plan: Plan = {}
        for number, eqn in enumerate(jaxpr.eqns):
            given = [look(var) for var in eqn.invars]
            if not any(given):
                continue
            results = self._visit(plan, number, eqn, given, lengths)
            known.update(zip(eqn.outvars, results or (), strict=False))
        return plan, [look(var) for var in jaxpr.outvars]

    def _visit(
        self,
        plan: Plan,
        number: int,
        eqn: Any,
        given: list[View | None],
        lengths: tuple[int, ...],
    ) -> list[View | None] | None:
        name = eqn.primitive.name
        first = next(view for view in given if view)
        if name == "stop_gradient":
            return None
        if name in _ISOMETRIC and len(given) == 1 and _keeps_numbers(eqn):
            step = _Step(name, str(sorted(eqn.params.items(), key=lambda item: item[0])), eqn)
            return [first._replace(made=(*first.made, step))]
        if inner := _called(eqn):
            plan[number], results = self.walk(inner.jaxpr, given, lengths)
            return results
        if scan := _scan(eqn):
            self._scan(plan, number, scan, given, lengths)
            return None
        site = _site(len(self.sites), eqn, given, lengths)
        if site is None:
            self.direct |= {view.leaf for view in given if view}
            return None
        plan[number] = site
        self.sites.append(site)
        return None

    def _scan(
        self,
        plan: Plan,
        number: int,
        scan: _Scan,
        given: list[View | None],
        lengths: tuple[int, ...],
    ) -> None:
        inner: list[View | None] = []
        for position, view in enumerate(given):
            if view and scan.consts <= position < scan.consts + scan.carries:
                self.direct.add(view.leaf)
                view = None
            if view:
                over = position >= scan.consts
                made = (*view.made, _SCANNED) if over else view.made
                view = View(view.leaf, made, (*view.scanned, over))
            inner.append(view)
        plan[number], results = self.walk(scan.body.jaxpr, inner, (*lengths, scan.length))
        self.direct |= {view.leaf for view in results if view}


def _keeps_numbers(eqn: Any) -> bool:
    """Whether the result has as many entries, and is of the same kind of numbers."""
    (operand,), (result,) = eqn.invars, eqn.outvars
    if operand.aval.size != result.aval.size or not eqn.primitive.name:
        return False
    kinds = [np.dtype(var.aval.dtype) for var in (operand, result)]
    return all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)


def _program(inner: Any) -> _Program:
    """Takes a program with or without its arrays; versions of JAX differ."""
    return _Program(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()))


def _called(eqn: Any) -> _Program | None:
    """Returns the program that an operation runs once, or None."""
    name = eqn.primitive.name
    inner = eqn.params.get("jaxpr") if name in _REMAT else eqn.params.get(_CALLS.get(name, ""))
    if inner is None:
        return None
    program = _program(inner)
    return program if len(program.jaxpr.invars) == len(eqn.invars) else None


def _scan(eqn: Any) -> _Scan | None:
    """Returns the parts of a scan, or None where they are not what this version of JAX has."""
    params = eqn.params
    if eqn.primitive.name != "scan":
        return None
    if "ft_in" in params:
        counts = [len(part) for part in params["ft_in"].unpack()]
        if len(counts) != 3:
            return None
        consts, carries = counts[:2]
    elif "num_consts" in params:
        consts, carries = params["num_consts"], params["num_carry"]
    else:
        return None
    return _Scan(_program(params["jaxpr"]), consts, carries, params["length"])


def _site(number: int, eqn: Any, given: list[View | None], lengths: tuple[int, ...]) -> Site | None:
    """Returns the site that an operation is, or None where it is none that is known."""
    name = eqn.primitive.name
    if len(given) != 2 or all(given) or (name == "gather" and not given[0]):
        return None
    if name not in ("dot_general", "gather"):
        return None
    weight = 0 if given[0] else 1
    view = given[weight]
    operands = [var.aval for var in eqn.invars]
    result = eqn.outvars[0].aval
    numbers = (operands[weight], result, *(operands if name == "dot_general" else ()))
    if view is None or not all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in numbers):
        return None
    shapes = (operands[weight].shape, operands[1 - weight].shape, result.shape)
    kind = "dot" if name == "dot_general" else "gather"
    if kind == "gather" and not (_looks_up_rows(eqn.params, shapes[0]) and not any(view.scanned)):
        return None
    return Site(number, kind, view, weight, eqn.params, shapes, lengths, result)


def _looks_up_rows(params: Mapping[str, Any], table: tuple[int, ...]) -> bool:
    """Whether a gather takes whole rows of a table."""
    numbers = params["dimension_numbers"]
    return (
        numbers.start_index_map == (0,)
        and numbers.collapsed_slice_dims == (0,)
        and not numbers.operand_batching_dims
        and tuple(params["slice_sizes"]) == (1, *table[1:])
    )


def run(
    closed: Any, plan: Plan, args: Sequence[Any], taps: Mapping[int, Array]
) -> tuple[list[Any], dict[int, Array]]:
    """Runs a program with a tap at each site.

    Returns:
        its results, and for each site what the parameter meets there: the other operand of a
        product, the indices into a table. Scans put their steps in front.
    """
    return _run(_program(closed), plan, args, taps)


def _run(
    program: _Program, plan: Plan, args: Sequence[Any], taps: Mapping[int, Array]
) -> tuple[list[Any], dict[int, Array]]:
    jaxpr, consts = program
    values: dict[Any, Any] = {}
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    read = lambda var: var.val if isinstance(var, Literal) else values[var]
    met: dict[int, Array] = {}
    for number, eqn in enumerate(jaxpr.eqns):
        operands = [read(var) for var in eqn.invars]
        inner = plan.get(number)
        if inner is None or (isinstance(inner, dict) and not _numbers(inner)):
            results = bind(eqn, operands)
        elif isinstance(inner, Site):
            results = bind(eqn, operands)
            results += taps[inner.number]
            if inner.kind != "mark":
                met[inner.number] = operands[1 - inner.weight]
        else:
            here = {number: taps[number] for number in _numbers(inner)}
            results, inside = _run_inner(eqn, inner, operands, here)
            met.update(inside)
        if not eqn.primitive.multiple_results:
            results = [results]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars], met


def _run_inner(
    eqn: Any, plan: Plan, operands: list[Any], taps: Mapping[int, Array]
) -> tuple[list[Any], dict[int, Array]]:
    """Runs the program inside an operation."""
    if scan := _scan(eqn):
        consts = operands[: scan.consts]
        carries = operands[scan.consts : scan.consts + scan.carries]

        def body(carries: list[Any], over: Any) -> tuple[list[Any], Any]:
            slices, taps = over
            operands = [*consts, *carries, *slices]
            results, met = _run(scan.body, plan, operands, taps)
            return results[: scan.carries], (results[scan.carries :], met)

        carries, (ys, met) = jax.lax.scan(
            body,
            carries,
            (operands[scan.consts + scan.carries :], dict(taps)),
            length=scan.length,
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        return [*carries, *ys], met
    called = _called(eqn)
    assert called is not None  # It was when the plan was made.
    inside = lambda operands, taps: _run(called, plan, operands, taps)
    if eqn.primitive.name in _REMAT:
        keep = {key: eqn.params[key] for key in ("policy", "prevent_cse") if key in eqn.params}
        inside = jax.checkpoint(inside, **keep)
    return inside(operands, dict(taps))


def _numbers(plan: Plan) -> list[int]:
    """Returns the numbers of the sites of a plan."""
    numbers: list[int] = []
    for entry in plan.values():
        numbers += [entry.number] if isinstance(entry, Site) else _numbers(entry)
    return numbers


def bind(eqn: Any, operands: Sequence[Any]) -> Any:
    """Runs one operation of a program."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions: Sequence[Any] = ()
    if isinstance(params, tuple):  # JAX 0.8 and 0.9 hand functions over apart.
        functions, params = params
    with eqn.ctx.manager:
        return eqn.primitive.bind(*functions, *operands, **params)


def _weight_axes(site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the contracted and the batch axes of the parameter in a product."""
    contracted, batch = site.params["dimension_numbers"]
    return tuple(contracted[site.weight]), tuple(batch[site.weight])


class Dense(NamedTuple):
    """All products of one parameter with data, as one: `y = x W` for each of `c` matrices `W`.

    Attributes:
        inputs: `(c, n, a)`.
        lay: puts a gradient `(c, a, b)` together as the parameter's.
    """

    inputs: Array
    lay: Callable[[Array], Array]


def dense_cotangents(sites: Sequence[Site], taps: Sequence[Array]) -> Array:
    """Returns the cotangents at all products of a parameter as `(*rows, c, n, b)`.

    Args:
        sites: those of one parameter.
        taps: the gradients of their taps, with any number of axes in front, `(*rows, *tap)`.
    """
    parts = []
    for site, cotangent in zip(sites, taps, strict=True):
        _, batch = _weight_axes(site)
        weight, other, _ = site.shapes
        contracted = site.params["dimension_numbers"][0]
        b = len(weight) - len(contracted[site.weight]) - len(batch)
        n = len(other) - len(contracted[1 - site.weight]) - len(batch)
        # The result's axes: batch, those of the first operand, those of the second.
        c_axes = list(range(len(batch)))
        first = list(range(len(batch), len(batch) + (b if site.weight == 0 else n)))
        second = list(range(len(batch) + len(first), len(batch) + b + n))
        b_axes, n_axes = (first, second) if site.weight == 0 else (second, first)
        parts.append(_canonical(site, cotangent, c_axes, n_axes, b_axes))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-2)


def _canonical(
    site: Site, value: Array, c_axes: Sequence[int], n_axes: Sequence[int], rest: Sequence[int]
) -> Array:
    """Lays the axes of an array at a site in the order `(*rows, c, n, rest)`.

    The axes are numbered without those of rows and of scans, which stand in front.
    """
    scans = len(site.lengths)
    rank = len(c_axes) + len(n_axes) + len(rest)
    rows = value.ndim - scans - rank
    over = [rows + k for k, scanned in enumerate(_padded(site)) if scanned]
    through = [rows + k for k, scanned in enumerate(_padded(site)) if not scanned]
    inner = lambda axes: [rows + scans + axis for axis in axes]
    order = [*range(rows), *over, *inner(c_axes), *through, *inner(n_axes), *inner(rest)]
    size = lambda axes: math.prod(value.shape[axis] for axis in axes)
    shape = (
        *value.shape[:rows],
        size([*over, *inner(c_axes)]),
        size([*through, *inner(n_axes)]),
        size(inner(rest)),
    )
    return jnp.transpose(value, order).reshape(shape)


def _padded(site: Site) -> tuple[bool, ...]:
    """Says of each scan around a site whether it runs over the parameter."""
    scanned = site.view.scanned
    return (*scanned, *(False for _ in site.lengths[len(scanned) :]))


def dense(sites: Sequence[Site], met: Sequence[Array], parameter: Any) -> Dense:
    """Joins the products of one parameter.

    Args:
        sites: those of the parameter, of one layout.
        met: the other operands, `(*scans, *shape)`; axes in front of them stay in front.
        parameter: its shape and dtype.
    """
    parts = []
    for site, other in zip(sites, met, strict=True):
        contracted, batch = site.params["dimension_numbers"]
        side = 1 - site.weight
        # In the order in which the parameter's own axes are laid.
        c_axes, a_axes = list(batch[side]), list(contracted[side])
        n_axes = [k for k in range(len(site.shapes[1])) if k not in c_axes + a_axes]
        parts.append(_canonical(site, other, c_axes, n_axes, a_axes))
    inputs = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-2)
    return Dense(inputs, lay_dense(sites[0], parameter))


def weight_shape(site: Site) -> tuple[int, int, int]:
    """Returns `(c, a, b)` of the matrices that a parameter is at a product."""
    contracted, batch = _weight_axes(site)
    shape = site.shapes[0]
    size = lambda axes: math.prod(shape[axis] for axis in axes)
    free = [axis for axis in range(len(shape)) if axis not in contracted + batch]
    over = [n for n, scanned in zip(site.lengths, _padded(site), strict=True) if scanned]
    return math.prod(over) * size(batch), size(contracted), size(free)


def number_of_rows(sites: Sequence[Site]) -> int:
    """Returns the number of rows that meet a parameter at all its sites."""
    total = 0
    for site in sites:
        through = math.prod(
            n for n, scanned in zip(site.lengths, _padded(site), strict=True) if not scanned
        )
        if site.kind == "gather":
            rows = math.prod(site.shapes[1][:-1])
        else:
            contracted, batch = site.params["dimension_numbers"]
            side = 1 - site.weight
            taken = (*contracted[side], *batch[side])
            rows = math.prod(n for k, n in enumerate(site.shapes[1]) if k not in taken)
        total += through * rows
    return total


def lay_dense(site: Site, parameter: Any) -> Callable[[Array], Array]:
    """Makes the function that puts a gradient `(c, a, b)` together as the parameter's."""
    contracted, batch = _weight_axes(site)
    depth = sum(site.view.scanned)

    def matrices(value: Array) -> Array:
        value = site.view.of(value)
        free = [k for k in range(len(site.shapes[0])) if k not in contracted + batch]
        order = [*range(depth), *(depth + k for k in (*batch, *contracted, *free))]
        return jnp.transpose(value, order).reshape(weight_shape(site))

    return _transposed(matrices, parameter)


def lay_rows(site: Site, parameter: Any) -> Callable[[Array], Array]:
    """Makes the function that puts a gradient of a table `(V, d)` together as the parameter's."""
    return _transposed(lambda value: site.view.of(value).reshape(site.shapes[0][0], -1), parameter)


def _transposed(function: Callable[[Array], Array], parameter: Any) -> Callable[[Array], Array]:
    aval = jax.ShapeDtypeStruct(parameter.shape, parameter.dtype)
    wanted = jax.eval_shape(function, aval).dtype
    transpose = jax.linear_transpose(function, aval)
    return lambda gradient: transpose(gradient.astype(wanted))[0]


def indices(sites: Sequence[Site], met: Sequence[Array]) -> Array:
    """Returns the rows of the table that all lookups of a parameter take, `(n,)`.

    Where a lookup is out of range and has no gradient, it is the number of the table's rows.
    """
    parts = []
    for site, found in zip(sites, met, strict=True):
        rows = found.shape[: found.ndim - len(site.lengths) - len(site.shapes[1])]
        found = found[..., 0]
        size = site.shapes[0][0]
        if site.params["mode"] == jax.lax.GatherScatterMode.CLIP:
            found = jnp.clip(found, 0, size - 1)
        else:
            found = jnp.where((found < 0) | (found >= size), size, found)
        parts.append(found.reshape(*rows, -1))
    return jnp.concatenate(parts, axis=-1)


def gather_cotangents(sites: Sequence[Site], taps: Sequence[Array]) -> Array:
    """Returns the cotangents at all lookups of a parameter as `(*rows, n, d)`."""
    parts = []
    for site, cotangent in zip(sites, taps, strict=True):
        scans, rank = len(site.lengths), len(site.shapes[2])
        rows = cotangent.ndim - scans - rank
        offsets = [rows + scans + k for k in site.params["dimension_numbers"].offset_dims]
        others = [k for k in range(rows, cotangent.ndim) if k not in offsets]
        size = math.prod(site.shapes[0][1:])
        moved = jnp.transpose(cotangent, [*range(rows), *others, *offsets])
        parts.append(moved.reshape(*cotangent.shape[:rows], -1, size))
    return jnp.concatenate(parts, axis=-2)
