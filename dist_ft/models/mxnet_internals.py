"""Every private attribute of MXNet and gluoncv that the package uses, each with the reason.

They are those of MXNet 1.9.1, the last release of MXNet 1.
"""

from __future__ import annotations

from types import ModuleType

import mxnet as mx
from mxnet.gluon import nn


def parameters_by_path(net: mx.gluon.Block) -> dict[str, mx.gluon.Parameter]:
    """The parameters by attribute path, as in 'features.0.gamma', the same in every process.

    The public `collect_params` gives names with a prefix that counts the networks of the process.
    A parameter of several paths, as the head of gluoncv's GoogLeNet, has only the last one.
    """
    last_paths = {parameter: path for path, parameter in _all_paths(net).items()}
    return {path: parameter for parameter, path in last_paths.items()}


def other_paths(net: mx.gluon.Block) -> set[str]:
    """The paths that `parameters_by_path` omits, but MXNet's `save_parameters` writes."""
    return _all_paths(net).keys() - parameters_by_path(net).keys()


def _all_paths(net: mx.gluon.Block) -> dict[str, mx.gluon.Parameter]:
    return net._collect_params_with_prefix()


def children(block: mx.gluon.Block) -> dict[str, mx.gluon.Block]:
    """The blocks inside a block by attribute name, or by number in a sequence, in their order.

    The public `apply` visits all blocks below without their names.
    """
    return block._children


def uses_running_statistics(block: nn.BatchNorm) -> bool:
    """True when the layer normalizes by its running statistics in training, too."""
    return block._kwargs["use_global_stats"]


def set_use_running_statistics(block: nn.BatchNorm) -> None:
    """`use_global_stats` is an argument of the constructor only, which the zoo calls."""
    block._kwargs["use_global_stats"] = True


def trainer_parameters(trainer: mx.gluon.Trainer) -> list[mx.gluon.Parameter]:
    """The parameters in the order of the trainer's indices, by which Horovod names gradients.

    The trainer has no public list of them.
    """
    return trainer._params


def gradient_scale(trainer: mx.gluon.Trainer) -> float:
    """What `update(batch_size)` multiplies gradients by, besides 1 / batch_size.

    Horovod's DistributedTrainer puts 1 / ranks here when its allreduce sums, and leaves it at 1
    when NCCL averages. Clipping has to know which.
    """
    return trainer._scale


def optimizer_of(trainer: mx.gluon.Trainer) -> mx.optimizer.Optimizer:
    """The trainer's optimizer, for its counts of updates; Trainer shows its learning rate only."""
    return trainer._optimizer


def updater_of(trainer: mx.gluon.Trainer) -> mx.optimizer.Updater:
    """Holds the optimizer's state arrays by parameter index; one, for the process's one device.

    The public `save_states` and `load_states` pickle them, with the contexts and the learning rate
    of the run that saved. A package that never unpickles needs the arrays.
    """
    return trainer._updaters[0]


def published_sha1(model_store: ModuleType) -> dict[str, str]:
    """The sha1 by model name of the .params files that MXNet or gluoncv publish.

    The public `get_model_file` looks one up and downloads it without retries or a lock.
    """
    return model_store._model_sha1
