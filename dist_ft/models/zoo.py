"""Builds a network of gluon's or gluoncv's model zoo with a new head, and cuts the head off."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Callable

import mxnet as mx
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import model_store, vision

from dist_ft.errors import UserError
from dist_ft.models.mxnet_internals import published_sha1

# Mean and standard deviation of ImageNet's RGB values in 0..1, as in the training of the zoo.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS = ("output", "fc")  # attribute names of the last layer in gluon's and gluoncv's classifiers


class Normalize(mx.gluon.HybridBlock):
    """Maps (n, side, side, 3) uint8 pixels to (n, 3, side, side) float32, on their device."""

    def hybrid_forward(self, F, x):
        return F.image.normalize(F.image.to_tensor(x), mean=MEAN, std=STD)


def with_normalization(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    """Puts Normalize before the network; maps uint8 pixels to logits, compiled as one graph."""
    whole = nn.HybridSequential()
    whole.add(Normalize(), net)
    whole.hybridize(static_alloc=True)
    return whole


def for_inference(
    net: mx.gluon.HybridBlock,
    ctx: mx.Context,
    dtype: str = "float32",
    outputs: Callable[[mx.sym.Symbol], mx.sym.Symbol] | None = None,
) -> mx.gluon.Block:
    """Like `with_normalization`, but faster in float32 on a CPU; the parameters must not change.

    oneDNN fuses each convolution with the layers after it and caches the weights in its own
    layout, so that it may miss a later change of them. outputs: gives the graph of the outputs,
    from that of the logits of the images in the variable 'data'; default: the logits.
    """
    whole = with_normalization(net)
    has_onednn = mx.runtime.Features().is_enabled("MKLDNN")
    can_fuse = ctx.device_type == "cpu" and dtype == "float32" and has_onednn
    if not can_fuse and outputs is None:
        return whole
    x = mx.sym.var("data", dtype="uint8")
    graph = outputs(whole(x)) if outputs else whole(x)
    if can_fuse:
        graph = graph.get_backend_symbol("MKLDNN")
    block = mx.gluon.SymbolBlock(graph, [x], params=net.collect_params())
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def build(name: str, num_classes: int, image_size: int, seed: int) -> mx.gluon.HybridBlock:
    """Builds a zoo network on the CPU with random parameters (Glorot and Bengio 2010).

    It maps (n, 3, image_size, image_size) float32 to (n, num_classes) logits. Raises UserError if
    no classifier has this name, or if the network does not accept this image size.
    """
    mx.random.seed(seed)
    with mx.name.NameManager():  # counts names from 0: Horovod matches them across ranks
        net = _new_network(name, num_classes)
    input_shape = (1, 3, image_size, image_size)
    try:
        # Shapes are inferred, not computed: a CPU cannot run a network in float16.
        net.infer_shape(mx.nd.zeros(input_shape))
        _, (output_shape,), _ = net(mx.sym.var("data")).infer_shape(data=input_shape)
    except (mx.MXNetError, AssertionError, AttributeError, ValueError) as error:
        raise UserError(
            f"--model {name} with --image-size {image_size}: the network does not accept this size"
            f" ({str(error).strip().splitlines()[-1]}); choose another"
        ) from error
    if output_shape != (1, num_classes):
        raise UserError(
            f"--model {name}: not an image classifier; its output for one image has shape"
            f" {output_shape} instead of {(1, num_classes)}"
        )
    net.initialize(mx.init.Xavier())
    return net


def feature_extractor(net: mx.gluon.HybridBlock) -> mx.gluon.Block | None:
    """Maps (n, side, side, 3) uint8 pixels to the head's inputs, with the network's parameters.

    Returns None if the head is not a single dense layer.
    """
    if not isinstance(_head_layer(net), nn.Dense):
        return None
    x = mx.sym.var("x", dtype="uint8")
    logits = with_normalization(net)(x)
    extractor = mx.gluon.SymbolBlock(logits.get_children()[0], [x], net.collect_params())
    extractor.hybridize(static_alloc=True)
    return extractor


def head(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    """Maps the features of `feature_extractor` to logits, with the network's parameters."""
    sequential = nn.HybridSequential()
    sequential.add(_head_layer(net))
    sequential.hybridize()
    return sequential


def head_prefix(net: mx.gluon.Block) -> str:
    """The start of the paths of the head's parameters, as 'output.'."""
    return next(f"{name}." for name in HEADS if hasattr(net, name))


def _head_layer(net: mx.gluon.Block) -> mx.gluon.Block:
    return getattr(net, head_prefix(net).rstrip("."))


def has_dropout(net: mx.gluon.Block) -> bool:
    """True if the network draws random numbers in training."""
    return bool(layers(net, nn.Dropout))


def layers(net: mx.gluon.Block, kind: type) -> list[mx.gluon.Block]:
    """All blocks of a type inside the network, in order."""
    found: list[mx.gluon.Block] = []
    net.apply(lambda block: found.append(block) if isinstance(block, kind) else None)
    return found


def import_gluoncv(model: str) -> ModuleType:
    """gluoncv's model zoo, whose import takes 2 s. Raises UserError if it is not installed."""
    try:
        from gluoncv import model_zoo
    except ImportError as error:
        raise UserError(
            f"--model {model}: not in MXNet's model zoo, and gluoncv cannot be imported ({error});"
            " correct the name, or run: pip install 'dist-ft[gluoncv]'"
        ) from error
    return model_zoo


def _new_network(name: str, num_classes: int) -> mx.gluon.HybridBlock:
    model, gluon_names = name.lower(), published_sha1(model_store).keys()
    if model in gluon_names:
        return vision.get_model(model, classes=num_classes)
    gluoncv_zoo = import_gluoncv(name)
    names = sorted({*gluon_names, *gluoncv_zoo.get_model_list()})
    if model not in names:
        similar = difflib.get_close_matches(model, names, n=5, cutoff=0.5)
        raise UserError(
            f"--model {name}: unknown network; similar names: {', '.join(similar) or 'none'}"
        )
    try:
        net = gluoncv_zoo.get_model(model, classes=num_classes)
    except (TypeError, OSError) as error:  # OSError: a detector downloads its backbone's weights
        raise UserError(f"--model {name}: not an image classifier ({error})") from error
    if not any(hasattr(net, name) for name in HEADS):
        raise UserError(
            f"--model {name}: not an image classifier; it has no layer named {' or '.join(HEADS)}"
        )
    return net
