"""The oracle of methods that project: least distance programming by SciPy's NNLS."""

import numpy as np
import scipy.optimize


def nearest(matrix, point, bounds=0.0):
    """The nearest `x` to `point` with `matrix @ x >= bounds`; None where there is none.

    Lawson and Hanson (1974), chapter 23: with `z = x - point` it is a problem of least distance,
    solved from the residual of non-negative least squares.
    """
    norms = np.linalg.norm(matrix, axis=1)
    rows, bounds = matrix[norms > 0], np.broadcast_to(bounds, norms.shape)[norms > 0]
    norms = norms[norms > 0]
    rows = rows / norms[:, None]
    unit = np.linalg.norm(point) or 1.0
    wanted = (bounds / norms - rows @ point) / unit
    if len(rows) == 0 or np.all(wanted <= 0):
        return point
    system = np.vstack([rows.T, wanted])
    goal = np.eye(len(system))[-1]
    weights, distance = scipy.optimize.nnls(system, goal, maxiter=10000)
    if distance < 1e-10:
        return None
    rest = goal - system @ weights
    return point - unit * rest[:-1] / rest[-1]
