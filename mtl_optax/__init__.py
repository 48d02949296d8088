"""Multi-task optimisation for JAX: every method an `optax.GradientTransformation`.

A method maps task gradients, a pytree whose leaves carry a leading task axis, to updates shaped
like the parameters, and chains with any optax optimiser:

>>> import jax.numpy as jnp, mtl_optax as mtl, optax
>>> tx = optax.chain(mtl.pcgrad(num_tasks=2), optax.sgd(0.1))
>>> params = jnp.zeros(2)
>>> losses, gradients = mtl.value_and_task_grads(lambda p: (p - 1.0) ** 2)(params)
>>> updates, state = tx.update(gradients, tx.init(params), params, task_losses=losses)
>>> print(updates)
[0.2 0.2]
"""

from importlib import metadata as _metadata

# Task gradients from loss functions.
from mtl_optax._gradients import per_task_value_and_grad as per_task_value_and_grad
from mtl_optax._gradients import value_and_task_grads as value_and_task_grads

# Methods that read nothing.
from mtl_optax._methods.equal import mean_tasks as mean_tasks
from mtl_optax._methods.equal import sum_tasks as sum_tasks

# Methods that read the Gram matrix of the task gradients.
from mtl_optax._methods.cagrad import cagrad as cagrad
from mtl_optax._methods.getmtl import getmtl as getmtl
from mtl_optax._methods.mgda import mgda as mgda
from mtl_optax._methods.pcgrad import pcgrad as pcgrad

# Methods that read the task losses.
from mtl_optax._methods.uw import uw as uw

# Methods that read the gradients coordinate by coordinate.
from mtl_optax._methods.adatask import adatask as adatask

# Around a method: one optimiser per task, shared parameters and heads.
from mtl_optax._composition import on_shared as on_shared
from mtl_optax._composition import per_task as per_task

# Adversarial parts of models with shared features.
from mtl_optax import adversarial as adversarial

# The registry.
from mtl_optax._registry import PROPERTIES as PROPERTIES
from mtl_optax._registry import MethodInfo as MethodInfo
from mtl_optax._registry import get as get
from mtl_optax._registry import list_methods as list_methods
from mtl_optax._registry import method_info as method_info

# For methods of your own, and for looking inside.
from mtl_optax._gram import combine as combine
from mtl_optax._gram import gram as gram
from mtl_optax._weighting import Evidence as Evidence
from mtl_optax._weighting import Weighting as Weighting
from mtl_optax._weighting import from_weighting as from_weighting
from mtl_optax._weighting import stateless as stateless

__version__ = _metadata.version("mtl_optax")
