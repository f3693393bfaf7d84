"""Class-activation maps: the logits of each place of an image, whose mean is the logit."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from dist_ft.data.rank_batches import load_test_image
from dist_ft.data.transforms import InputSpec
from dist_ft.errors import UserError
from dist_ft.inference import heatmap, trained_model
from dist_ft.inference.model_evaluation import assess, labeled_split
from dist_ft.inference.outputs import Outputs
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.models import class_activation, zoo
from tests.networks import SMALL_NETWORK_TERMS, normalized_mobilenet, random_pixels, small_network
from tests.rounding import assert_close

MOBILENET_TERMS = 28 * 256  # of sums over at most 256 channels in each of 28 layers


def trained(name, side, num_classes=5):
    """A network without a checkpoint."""
    unknown = TrainedModel(**dict.fromkeys(TrainedModel._fields))
    classes, spec = tuple("abcdefgh"[:num_classes]), InputSpec(side, side, keep_ratio=False)
    return unknown._replace(model=name, classes=classes, spec=spec)


def outputs_of(core, pixels, num_classes=5):
    """What a network gives for images."""
    outputs = Outputs(trained("", pixels.shape[1], num_classes), features=True, places=True)
    net = zoo.for_inference(core, mx.cpu(), "float32", outputs.graph)
    return outputs.divide(net(mx.nd.array(pixels, dtype="uint8")).asnumpy())


@pytest.mark.parametrize("side", [64, 96])
def test_the_mean_over_all_places_is_the_logit(side):
    pixels = random_pixels(side=side)
    core = normalized_mobilenet(5, pixels)
    found = outputs_of(core, pixels)
    assert found.places.shape == (6, side // 32, side // 32, 5)
    assert np.ptp(found.places, axis=(1, 2)).min() > 0
    expected = zoo.with_normalization(core)(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    assert_close(found.logits, expected, MOBILENET_TERMS)
    assert_close(found.places.mean(axis=(1, 2)), found.logits, MOBILENET_TERMS)


def test_a_map_is_of_the_weights_of_the_predicted_class():
    """By numpy, from the feature map."""
    pixels, core = random_pixels(), small_network()
    core.output.bias.set_data(mx.nd.array([0.5, -1, 2]))
    found = outputs_of(core, pixels, num_classes=3)
    features = core.features[:3](zoo.Normalize()(mx.nd.array(pixels, dtype="uint8"))).asnumpy()
    weights, bias = core.output.weight.data().asnumpy(), core.output.bias.data().asnumpy()
    predicted = found.logits.argmax(axis=1)
    expected = np.einsum("ndhw,nd->nhw", features, weights[predicted])
    assert_close(found.maps, expected + bias[predicted][:, None, None], SMALL_NETWORK_TERMS)


def test_features_are_those_of_the_extractor():
    pixels, core = random_pixels(), small_network()
    expected = zoo.feature_extractor(core)(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    assert_close(outputs_of(core, pixels, num_classes=3).features, expected, SMALL_NETWORK_TERMS)


@pytest.mark.parametrize(
    "name, side, features, places",
    [
        ("resnet18_v1", 64, True, True),
        ("resnet18_v2", 64, True, True),
        ("densenet121", 224, True, True),  # whose average pooling has the size of the feature map
        ("densenet121", 256, True, False),
        ("vgg11", 64, True, False),
        ("alexnet", 224, True, False),
        ("squeezenet1.1", 224, False, False),
    ],
)
def test_networks_with_pooling_before_one_dense_layer_have_maps(name, side, features, places):
    core, model = zoo.build(name, 5, side, seed=0), trained(name, side)
    logits = zoo.with_normalization(core)(mx.sym.var("data"))
    for is_there, options in ((features, {"features": True}), (places, {"places": True})):
        outputs = Outputs(model, **options)
        if is_there:
            _, (shape,), _ = outputs.graph(logits).infer_shape(data=(1, side, side, 3))
            assert shape[1] > 5
        else:
            with pytest.raises(UserError, match=f"{name} (does not end with|has no class-act)"):
                outputs.graph(logits)


def test_the_maps_of_predictions_are_drawn_over_their_images(trained_run, tiny, world, monkeypatch):
    model = trained_model.load(trained_run)
    split = labeled_split(str(tiny), "test", model.classes)
    predictions = assess(model.network(world), model, split, world, 2).predictions.worst(3)
    maps = heatmap.of_predictions(model, split, predictions, world)
    assert list(maps) == [prediction.index for prediction in predictions]
    for index, shown in maps.items():
        pixels = load_test_image(split, index, model.spec)
        # 32 px are a single place of the network's last feature map.
        assert (shown == heatmap.overlay(pixels, np.zeros((1, 1)))).all()
    monkeypatch.setattr(class_activation, "KEEP_VALUES", ())  # as if it were another network
    assert heatmap.of_predictions(model, split, predictions, world) is None


def test_the_colors_follow_the_scores():
    """Blue at the lowest, red at the highest, half of the image itself everywhere."""
    gray = np.full((32, 32, 3), 128, np.uint8)
    shown = heatmap.overlay(gray, np.array([[0.0, 1.0], [1.0, 3.0]], np.float32)).astype(int)
    red_minus_blue = shown[..., 0] - shown[..., 2]
    assert red_minus_blue[0, 0] < 0 < red_minus_blue[-1, -1]
    assert (heatmap.overlay(gray, np.ones((2, 2), np.float32)) == shown[0, 0]).all()
