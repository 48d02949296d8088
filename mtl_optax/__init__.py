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
from mtl_optax._task_gradients.features import mark_features as mark_features
from mtl_optax._task_gradients.nnx import nnx_value_and_task_grads as nnx_value_and_task_grads
from mtl_optax._task_gradients.per_task import per_task_value_and_grad as per_task_value_and_grad
from mtl_optax._task_gradients.sam import sam_value_and_task_grads as sam_value_and_task_grads
from mtl_optax._task_gradients.stacked import value_and_task_grads as value_and_task_grads
from mtl_optax._unstacked import TaskGradients as TaskGradients

# Methods that read nothing.
from mtl_optax._methods.equal import mean_tasks as mean_tasks
from mtl_optax._methods.equal import sum_tasks as sum_tasks
from mtl_optax._methods.constant import constant as constant
from mtl_optax._methods.rlw import rlw as rlw

# Methods that read the Gram matrix of the task gradients.
from mtl_optax._methods.aligned_mtl import aligned_mtl as aligned_mtl
from mtl_optax._methods.cagrad import cagrad as cagrad
from mtl_optax._methods.conic_grad import conic_grad as conic_grad
from mtl_optax._methods.dual_proj import dual_proj as dual_proj
from mtl_optax._methods.config import config as config
from mtl_optax._methods.dibs import dibs as dibs
from mtl_optax._methods.fairgrad import fairgrad as fairgrad
from mtl_optax._methods.getmtl import getmtl as getmtl
from mtl_optax._methods.gradvac import gradvac as gradvac
from mtl_optax._methods.imtl import imtl_g as imtl_g
from mtl_optax._methods.krum import krum as krum
from mtl_optax._methods.mgda import mgda as mgda
from mtl_optax._methods.nash_mtl import nash_mtl as nash_mtl
from mtl_optax._methods.pcd import pcd as pcd
from mtl_optax._methods.pcgrad import pcgrad as pcgrad
from mtl_optax._methods.upgrad import upgrad as upgrad

# Methods that read the task losses.
from mtl_optax._methods.bandit_mtl import bandit_mtl as bandit_mtl
from mtl_optax._methods.coba import coba as coba
from mtl_optax._methods.cosmos import cosmos as cosmos
from mtl_optax._methods.dwa import dwa as dwa
from mtl_optax._methods.famo import famo as famo
from mtl_optax._methods.gls import gls as gls
from mtl_optax._methods.go4align import go4align as go4align
from mtl_optax._methods.group_dro import group_dro as group_dro
from mtl_optax._methods.igb import igb as igb
from mtl_optax._methods.imtl import imtl_l as imtl_l
from mtl_optax._methods.ldc import ldc as ldc
from mtl_optax._methods.pbi import pbi as pbi
from mtl_optax._methods.scale_invariant import scale_invariant as scale_invariant
from mtl_optax._methods.tchebycheff import stch as stch
from mtl_optax._methods.tchebycheff import tchebycheff as tchebycheff
from mtl_optax._methods.uw import uw as uw

# Methods that read the Gram matrix and the losses.
from mtl_optax._methods.emtl import emtl as emtl
from mtl_optax._methods.epo import epo as epo
from mtl_optax._methods.ferero import ferero as ferero
from mtl_optax._methods.imtl import imtl as imtl
from mtl_optax._methods.pareto_mtl import pareto_mtl as pareto_mtl
from mtl_optax._methods.pmgda import pmgda as pmgda

# Methods that read the norms of the task gradients, and the losses.
from mtl_optax._methods.gradnorm import gradnorm as gradnorm
from mtl_optax._methods.meta_balance import meta_balance as meta_balance

# Methods that read the task gradients of a second batch.
from mtl_optax._methods.meta_weighting import meta_weighting as meta_weighting
from mtl_optax._methods.two_batches import modo as modo
from mtl_optax._methods.two_batches import sdmgrad as sdmgrad

# Methods that read the gradients coordinate by coordinate.
from mtl_optax._methods.adatask import adatask as adatask
from mtl_optax._methods.db_mtl import db_mtl as db_mtl
from mtl_optax._methods.excess_mtl import excess_mtl as excess_mtl
from mtl_optax._methods.graddrop import graddrop as graddrop
from mtl_optax._methods.layerwise_adatask import layerwise_adatask as layerwise_adatask
from mtl_optax._methods.m_config import m_config as m_config
from mtl_optax._methods.moco import moco as moco
from mtl_optax._methods.trimmed_mean import trimmed_mean as trimmed_mean

# Around a method: weights by layers, kept or averaged over steps, averaged gradients, one optimiser
# per task, shared parameters and heads, guards, micro-batches.
from mtl_optax._around.accumulation import accumulate_task_gradients as accumulate_task_gradients
from mtl_optax._around.by_group import by_group as by_group
from mtl_optax._around.check_updates import check_updates as check_updates
from mtl_optax._around.every import every as every
from mtl_optax._around.momentum import momentum as momentum
from mtl_optax._around.on_shared import on_shared as on_shared
from mtl_optax._around.per_task import per_task as per_task
from mtl_optax._around.guard import skip_nonfinite as skip_nonfinite
from mtl_optax._around.split_step import split_step as split_step
from mtl_optax._around.task_ema import task_ema as task_ema

# Diagnostics: conflict, dominance, numbers to log, and figures for results.
from mtl_optax import metrics as metrics
from mtl_optax._diagnostics.conflict import Conflict as Conflict
from mtl_optax._diagnostics.conflict import conflict as conflict
from mtl_optax._diagnostics.dominance import dominance_by_layer as dominance_by_layer
from mtl_optax._diagnostics.dominance import dominance_histogram as dominance_histogram
from mtl_optax._diagnostics.dominance import dominance_ratio as dominance_ratio
from mtl_optax._diagnostics.conflict import track_conflict as track_conflict
from mtl_optax._diagnostics.dominance import track_dominance as track_dominance
from mtl_optax._diagnostics.scalars import scalars as scalars
from mtl_optax._diagnostics.scalars import task_weights as task_weights

# Adversarial parts of models with shared features.
from mtl_optax import adversarial as adversarial

# The registry.
from mtl_optax._registry import PROPERTIES as PROPERTIES
from mtl_optax._registry import MethodInfo as MethodInfo
from mtl_optax._registry import get as get
from mtl_optax._registry import list_methods as list_methods
from mtl_optax._registry import method_info as method_info

# For methods of your own.
from mtl_optax._gram import combine as combine
from mtl_optax._gram import gram as gram
from mtl_optax._frame import Evidence as Evidence
from mtl_optax._frame import Weighting as Weighting
from mtl_optax._frame import from_weighting as from_weighting
from mtl_optax._frame import stateless as stateless

__version__ = _metadata.version("mtl_optax")
