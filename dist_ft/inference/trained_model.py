"""A trained network, loaded from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple

import mxnet as mx

from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.files import library_path
from dist_ft.models import precision, zoo
from dist_ft.training import checkpoint


class TrainedModel(NamedTuple):
    """What a checkpoint says about its network."""

    path: Path  # of the checkpoint
    step: int
    model: str  # the name in the model zoo
    dtype: str  # of the training run
    classes: tuple[str, ...]
    spec: InputSpec
    selection_images: str  # number and fingerprint of those that selected the best epoch
    val_share: float  # of the training images, which the run took for validation
    seed: int

    def core(self, ctx: mx.Context) -> mx.gluon.HybridBlock:
        """The network with its parameters: (n, 3, side, side) float32, normalized, to logits."""
        net = zoo.build(self.model, len(self.classes), self.spec.side, seed=0)
        with library_path(self.path / checkpoint.NET) as file:
            net.load_parameters(file)
        net.collect_params().reset_ctx(ctx)
        return net

    def network(
        self,
        world: World,
        dtype: str = "",
        fused: bool = False,
        outputs: Callable[[mx.sym.Symbol], mx.sym.Symbol] | None = None,
    ) -> mx.gluon.Block:
        """The network on this rank's device: (n, side, side, 3) uint8 to logits.

        All ranks call it. fused: on a CPU, use oneDNN's fused operators, which are several times
        faster for some networks, but round differently from the tests of the training run.
        outputs: other outputs of the fused network, as in `zoo.for_inference`.
        dtype: as in dist_ft.train. Default: that of the training run, or float32, the type of the
        parameters, if a device does not support it. Raises CollectiveError if a device does not
        support an explicit `dtype`.
        """
        if not dtype:
            is_supported = all(world.gather(precision.supports(world.ctx, self.dtype)))
            dtype = self.dtype if is_supported or self.dtype == "auto" else "float32"
        if dtype == "auto":
            dtype = precision.fastest_dtype(world)
        with world.raise_on_all_ranks():
            precision.use_dtype(dtype, world.ctx)
            core = self.core(world.ctx)
            if fused:
                return zoo.for_inference(core, world.ctx, dtype, outputs)
            return zoo.with_normalization(core)


def load(path: Path) -> TrainedModel:
    """Reads the folder of a checkpoint, or the best checkpoint in the folder of a run.

    A checkpoint needs only its `state.json` and `net.params` here. Raises UserError if there is no
    checkpoint, or only damaged ones.
    """
    is_checkpoint = (path / checkpoint.STATE).is_file()
    found = checkpoint.read(path) if is_checkpoint else checkpoint.best(path)
    if found is None:
        raise UserError(
            f"{path}: neither a run with an intact checkpoint nor a checkpoint; give the folder of"
            " a run (the --out of dist_ft.train) or of one of its checkpoints"
        )
    state = found.state
    return TrainedModel(
        found.path,
        state.step,
        state.run_spec["--model"],
        state.dtype,
        tuple(state.classes),
        state.input_spec,
        state.run_spec.get("val images") or state.run_spec["test images"],
        state.run_spec.get("--val-share", 0.0),
        state.run_spec.get("--seed", 0),
    )
