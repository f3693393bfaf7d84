"""models.transfer: every file format gives the same backbone, and nothing is guessed."""

import mxnet as mx
import numpy as np
import pytest

from dist_ft.errors import UserError
from dist_ft.models import parameters, transfer, weight_file, zoo
from tests.conftest import WEIGHTS
from tests.networks import WEIGHT_FILES, small_network


def values(net):
    return {path: array.asnumpy() for path, array in parameters.arrays(net).items()}


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_every_format_fills_the_backbone_and_leaves_the_head(weight_files, name):
    net = small_network(num_classes=5)
    before, expected = values(net), mx.nd.load(str(weight_files / "saved.params"))
    copied = transfer.copy_backbone(weight_file.read(weight_files / name), net)
    after = values(net)
    assert set(copied) == {path for path in after if path.startswith("features.")}
    for path, value in after.items():
        wanted = expected[path].asnumpy() if path in copied else before[path]
        np.testing.assert_array_equal(value, wanted, err_msg=path)


def test_all_mismatches_are_named_and_nothing_is_changed(weight_files):
    arrays = weight_file.read(weight_files / "net.onnx")
    (beta,) = (name for name in arrays if name.endswith("beta"))
    (convolution,) = (name for name in arrays if name.endswith("conv0_weight"))
    del arrays[beta]
    arrays["other_weight"] = mx.nd.zeros((1,))
    arrays[convolution] = mx.nd.zeros((8, 3, 5, 5))
    net = small_network()
    before = values(net)
    with pytest.raises(UserError) as e:
        transfer.copy_backbone(arrays, net)
    message = str(e.value)
    assert "1 missing in the file: features.1.beta" in message
    assert "1 unknown to the network: other_weight" in message
    assert "features.0.weight (file (8, 3, 5, 5), network (8, 3, 3, 3))" in message
    assert "choose the --model of the file" in message
    for path, value in values(net).items():
        np.testing.assert_array_equal(value, before[path])


def test_the_model_of_a_resnet_file_is_suggested():
    arrays = {f"features.{i}.weight": mx.nd.zeros((1, 1, 1, 1)) for i in range(36)}
    arrays["features.0.gamma"] = mx.nd.zeros((3,))
    with pytest.raises(UserError, match=r"features\.\S+ and 28 more(.|\n)*--model resnet34_v2"):
        transfer.copy_backbone(arrays, small_network())


def test_real_weights_of_96_classes_fit_a_network_of_five():
    if not WEIGHTS.is_file():
        pytest.skip(f"no {WEIGHTS}; DIST_FT_WEIGHTS names a resnet34_v2 .params file")
    net = zoo.build("resnet34_v2", 5, 64, seed=0)
    arrays = weight_file.read(WEIGHTS)
    assert len(transfer.copy_backbone(arrays, net)) == 176
    first = net.features[1].weight.data().asnumpy()
    np.testing.assert_array_equal(first, arrays["features.1.weight"].asnumpy())
