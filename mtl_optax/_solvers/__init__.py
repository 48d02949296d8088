"""Inner solvers: pure functions of `(T, T)` matrices, jittable, capped, ended by a certificate."""

from mtl_optax._solvers.bargaining import bargaining as bargaining
from mtl_optax._solvers.conic import conic as conic
from mtl_optax._solvers.kl_ball import kl_ball as kl_ball
from mtl_optax._solvers.lp import LPSolution as LPSolution
from mtl_optax._solvers.lp import lp as lp
from mtl_optax._solvers.min_norm import frank_wolfe as frank_wolfe
from mtl_optax._solvers.min_norm import fully_corrective as fully_corrective
from mtl_optax._solvers.min_norm import min_norm as min_norm
from mtl_optax._solvers.min_norm import projected_gradient as projected_gradient
from mtl_optax._solvers.nnqp import nnqp as nnqp
from mtl_optax._solvers.simplex import Solution as Solution
from mtl_optax._solvers.spectrum import spectrum as spectrum
