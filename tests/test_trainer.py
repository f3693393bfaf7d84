"""HookedTrainer calls its hooks around every allreduce, and otherwise is the trainer it wraps."""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd

from dist_ft.distributed.trainer import HookedTrainer


def test_hooks_run_around_the_allreduce_of_nested_trainers():
    net = mx.gluon.nn.Dense(1, in_units=2)
    net.initialize()
    calls = []

    class Trainer(mx.gluon.Trainer):
        def allreduce_grads(self):
            calls.append("allreduce")

    inner = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5}, kvstore=None)
    trainer = HookedTrainer(inner, after_allreduce=lambda: calls.append("wait"))
    trainer = HookedTrainer(trainer, before_allreduce=lambda: calls.append("start"))
    with autograd.record():
        loss = net(mx.nd.ones((1, 2))).sum()
    loss.backward()
    before = net.weight.data().asnumpy()
    trainer.step(1)
    assert calls == ["start", "allreduce", "wait"]
    assert (net.weight.data().asnumpy() == before - 0.5).all()
    assert trainer.learning_rate == 0.5
