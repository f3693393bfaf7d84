"""Each rank has its own device, and a run uses no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dist_ft import train
from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.diagnostics import machine_checks
from dist_ft.diagnostics.finding import NOTE, OK
from dist_ft.distributed import devices
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation import evaluator
from dist_ft.inference import trained_model
from dist_ft.training import checkpoint, startup_summary
from tests.conftest import run_job


@pytest.fixture
def world():
    """A rank on another device than the default: to MXNet, cpu(0) and cpu(1) differ as a CPU and a
    GPU do."""
    world = World("cpu", 300)
    world.ctx = mx.cpu(1)
    yield world
    world.close()


@pytest.mark.parametrize(
    "device, num_gpus, local_rank, local_size, ctx",
    [
        ("auto", 0, 3, 4, mx.cpu()),
        ("cpu", 0, 0, 1, mx.cpu()),
        ("auto", 1, 0, 1, mx.gpu(0)),
        ("gpu", 4, 2, 4, mx.gpu(2)),
        ("auto", 8, 3, 4, mx.gpu(3)),
    ],
)
def test_each_local_rank_has_its_own_gpu(
    device, num_gpus, local_rank, local_size, ctx, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.assign(device, num_gpus, local_rank, local_size) == ctx


def test_a_launcher_may_restrict_each_rank_to_its_own_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert devices.assign("auto", 1, local_rank=3, local_size=4) == mx.gpu(0)


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    for visible, num_gpus in ((None, 1), ("0,1", 2)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(UserError, match=rf"4 ranks on \S+, which has {num_gpus} GPUs; start"):
            devices.assign("auto", num_gpus, local_rank=0, local_size=4)


@pytest.mark.parametrize(
    "cuda, remedy", [(False, "install a CUDA build"), (True, "check that nvidia-smi shows one")]
)
def test_a_missing_gpu_is_reported_with_a_remedy(cuda, remedy, world, monkeypatch):
    monkeypatch.setattr(devices, "built_for_cuda", lambda: cuda)
    with pytest.raises(UserError, match=rf"--device gpu: MXNet .* sees no GPU on .*{remedy}"):
        devices.assign("gpu", 0, 0, 1)
    finding = machine_checks.check_devices(world)
    assert finding.severity == (NOTE if cuda else OK)
    lines = list(startup_summary.describe_device("auto", world.ctx, "float32"))
    assert len(lines) == cuda and all("sees no GPU" in line and remedy in line for line in lines)
    assert not list(startup_summary.describe_device("cpu", world.ctx, "float32"))
    assert not list(startup_summary.describe_device("auto", mx.gpu(0), "float16"))


@pytest.mark.jobs
@pytest.mark.parametrize("freeze", [(), ("features",)])
def test_a_run_computes_on_its_device_only(world, tiny, tmp_path, freeze):
    """While it trains, stops, resumes and evaluates; also from cached features."""
    config = Config(
        **{"data": str(tiny), "model": "mobilenet0.25", "weights": "none", "image_size": 32},
        **{"batch_size": 24, "lr": 0.05, "momentum": 0.9, "num_workers": 2, "freeze": freeze},
        **{"bn": "frozen" if freeze else Config.bn, "out": str(tmp_path / "run"), "epochs": 2},
    )
    train.fit(replace(config, max_steps=4), world)
    run = train.fit(config, world)
    assert {
        a.context for a in run.core.collect_params()["mobilenet0_conv0_weight"].list_data()
    } == {world.ctx}
    model = trained_model.load(Path(config.out))
    net = model.network(world)
    batches = RankBatches(scan(str(tiny)), model.spec, 0, 0, 1, 2, 8)
    scores = evaluator.evaluate(net, batches.test(), 5, world)
    batches.close()
    assert scores.num_images == 101
    assert np.isclose(scores.accuracy, checkpoint.best(tmp_path / "run").accuracy)


@pytest.mark.jobs
def test_building_a_network_computes_nothing():
    """In float16, which a CPU cannot compute: MXNet would raise that at the wait."""
    code = (
        "import mxnet as mx; from mxnet.contrib import amp; amp.init(target_dtype='float16');"
        "from dist_ft.models import zoo; net = zoo.build('resnet18_v2', 5, 32, 0); mx.nd.waitall();"
        "print(sum(p.data().size for p in net.collect_params().values()))"
    )
    ended = run_job(["-c", code], 60)
    assert ended.status == 0, ended.output
    assert int(ended.output.split()[-1]) > 1e7


@pytest.mark.jobs
def test_a_lack_of_memory_is_an_error_that_suggests_micro_batches():
    """In a process of its own, whose memory is limited."""
    program = (
        "import resource, mxnet as mx; from dist_ft.distributed.devices import memory_errors\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))\n"
        "with memory_errors(): mx.nd.zeros((2**31 - 2**10,)).wait_to_read()\n"  # 8 GiB
    )
    ended = run_job(["-c", program], 60)
    assert ended.status == 1
    last_line = ended.output.splitlines()[-1]
    assert last_line.startswith("dist_ft.errors.UserError: the device has too little memory (")
    assert "pass --micro-batch" in last_line


def test_other_errors_of_mxnet_are_not_mistaken_for_a_lack_of_memory():
    with pytest.raises(mx.MXNetError, match="shape"), devices.memory_errors():
        (mx.nd.ones(2) + mx.nd.ones(3)).wait_to_read()
