"""Training runs that must give the same result for any number of ranks, and runs that must fail.

Used in one process by pytest and in jobs of several ranks by tests/workers/world.py.
"""

from __future__ import annotations

from pathlib import Path

from dist_ft import train
from dist_ft.config import Config
from dist_ft.distributed.world import World
from dist_ft.errors import CollectiveError
from dist_ft.training.run import Run

# 53 images in steps of 24, 24 and 5.
TINY = {
    "model": "mobilenet0.25",
    "weights": "none",
    "image_size": 32,
    "batch_size": 24,
    "lr": 0.05,
    "bn": "frozen",
    "epochs": 2,
    "num_workers": 1,
}


def train_all(world: World, data: str, broken_data: str, out: Path) -> None:
    """Makes the runs OUT/main, small_batch, unreadable, and with several ranks compressed."""

    def fit(name: str, data: str, **settings) -> None:
        train.fit(Config(data=data, out=str(out / name), **{**TINY, **settings}), world)

    fit("main", data)
    fit("small_batch", data, batch_size=2, max_steps=3)  # a third rank has no image
    fit("unreadable", broken_data, max_bad_share=0.1)
    if world.size > 1:
        settings = world.settings
        world.settings = settings._replace(compression="fp16", num_groups=3)
        fit("compressed", data)
        world.settings = settings


def train_averaged(world: World, data: str, out: Path, first_steps: str) -> None:
    """Makes the runs OUT/averaged; OUT/first_steps, which stops within its second epoch; and
    OUT/resumed, which continues the run in the folder `first_steps`."""

    def fit(name: str, **settings) -> None:
        settings = {**TINY, "ema": 0.9, "layer_decay": 0.8, **settings}
        train.fit(Config(data=data, out=str(out / name), **settings), world)

    fit("averaged")
    fit("first_steps", max_steps=4)
    fit("resumed", resume=first_steps)


def train_bfloat16(world: World, data: str, out: Path) -> None:
    """Makes the run OUT/bfloat16, after which this process cannot train in float32."""
    settings = {**TINY, "dtype": "bfloat16"}
    train.fit(Config(data=data, out=str(out / "bfloat16"), **settings), world)


def provoke_errors(world: World, data: str, out: Path) -> dict[str, str]:
    """Makes runs that must fail on all ranks alike; the message of each."""
    on_last_rank = world.rank == world.size - 1
    begin_step = Run.begin_step

    def change_a_parameter(run: Run, step: int, *args) -> float:
        if step == 1 and on_last_rank:
            for parameter in run.core.collect_params().values():
                if parameter.grad_req != "null":
                    parameter.set_data(parameter.data() + 1e-7)
        return begin_step(run, step, *args)

    def message(name: str, **settings) -> str:
        config = Config(**{**TINY, "data": data, "out": str(out / name), **settings})
        try:
            train.fit(config, world)
        except CollectiveError as error:
            return str(error)
        raise AssertionError(f"{name} did not fail")

    messages = {
        "different_settings": message("different_settings", lr=0.5 if on_last_rank else 0.05),
        "missing_data": message("missing_data", data="nowhere" if on_last_rank else data),
        "overflow": message("overflow", lr=1e30, epochs=1000),
        # BatchNorm keeps the loss finite for a step longer than the parameters.
        "overflow_when_saving": message(
            "overflow_when_saving", lr=1e30, bn="train", save_every=1, epochs=1000
        ),
    }
    Run.begin_step = change_a_parameter
    messages["divergence"] = message("divergence", check_every=1)
    Run.begin_step = begin_step
    return messages
