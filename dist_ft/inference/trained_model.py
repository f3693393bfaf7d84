"""A trained network as a checkpoint keeps it: classes, what it sees of a picture, parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mxnet as mx

from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.models import precision, zoo
from dist_ft.training import checkpoint

HELP = "folder of a run, of which the best checkpoint is taken, or of one checkpoint"


class TrainedModel(NamedTuple):
    path: Path  # of the checkpoint
    step: int
    model: str
    dtype: str  # that it was trained in
    classes: tuple[str, ...]
    views: InputSpec

    def core(self, ctx: mx.Context) -> mx.gluon.HybridBlock:
        """The network with its parameters: (n, 3, side, side) float32, normalised, to logits."""
        net = zoo.build(self.model, len(self.classes), self.views.side, seed=0)
        net.load_parameters(str(self.path / checkpoint.NET))
        net.collect_params().reset_ctx(ctx)
        return net

    def network(self, world: Any, dtype: str = "") -> mx.gluon.Block:
        """(n, side, side, 3) uint8 pixels to logits, on this rank's device; all ranks call it.

        dtype: as of dist_ft.train; default: the one that it was trained in, or float32, which its
        parameters are in, where a device lacks that one. Raises CollectiveError where a
        device lacks `dtype`.
        """
        if not dtype:
            had = all(world.gather(precision.supports(world.ctx, self.dtype)))
            dtype = self.dtype if had or self.dtype == "auto" else "float32"
        if dtype == "auto":
            dtype = precision.fastest_dtype(world)
        with world.raise_on_all_ranks():
            precision.use_dtype(dtype, world.ctx)
            return zoo.for_inference(self.core(world.ctx), world.ctx, dtype)


def find(place: str) -> TrainedModel:
    """What a run's folder (its best checkpoint) or a checkpoint's folder holds.

    Of a checkpoint, `state.json` and `net.params` suffice. Raises UserError where there is none, or
    one that is not whole.
    """
    path = Path(place)
    if (path / checkpoint.STATE).is_file():
        state = checkpoint.read(path).state
    else:
        found = checkpoint.best(path)
        if found is None:
            raise UserError(
                f"{place}: neither a run with a whole checkpoint in it nor a checkpoint: name a"
                " folder that dist_ft.train wrote (--out)"
            )
        path, state = found
    try:
        views = InputSpec(*(state["view"][name] for name in ("image_size", "resize", "keep_ratio")))
        name = state["facts"]["--model"]
        dtype = state.get("dtype") or state["facts"].get("--dtype", "float32")
        return TrainedModel(path, state["step"], name, dtype, tuple(state["classes"]), views)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path / checkpoint.STATE}: says nothing of {error}: written by another version of"
            " dist_ft, which can use it"
        ) from error
