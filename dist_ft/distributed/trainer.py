"""A gluon Trainer with functions that run before and after the allreduce of the gradients."""

from __future__ import annotations

from typing import Any, Callable

import mxnet as mx


def do_nothing() -> None:
    pass


class HookedTrainer:
    """Behaves like the trainer that it wraps, apart from the calls around `allreduce_grads`."""

    def __init__(
        self,
        trainer: mx.gluon.Trainer | HookedTrainer,
        before_allreduce: Callable[[], None] = do_nothing,
        after_allreduce: Callable[[], None] = do_nothing,
    ):
        self._wrapped = trainer
        self._before_allreduce, self._after_allreduce = before_allreduce, after_allreduce

    def allreduce_grads(self) -> None:
        self._before_allreduce()
        self._wrapped.allreduce_grads()
        self._after_allreduce()

    def step(self, batch_size: float, ignore_stale_grad: bool = False) -> None:
        """Trainer.step would not use the `allreduce_grads` above."""
        self.allreduce_grads()
        self._wrapped.update(batch_size, ignore_stale_grad)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)
