"""data.mixing: mixup and cutmix of a pair of images."""

import numpy as np
import pytest
from scipy import stats

from dist_ft.data.mixing import NUM_DRAWS, mix_pair

SIDE = 32


def pair(seed=0):
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)


def many_draws(num):
    return np.random.RandomState(1).rand(num, NUM_DRAWS)


def test_mixup_is_the_weighted_mean_of_the_two_originals():
    for draws in many_draws(20):
        originals, mixed = pair(), pair()
        share = mix_pair(*mixed, 0.4, 0, draws)
        for row in (0, 1):
            expected = (1 - share) * originals[row] + share * originals[1 - row].astype(float)
            # Half a level of rounding, and the float32 in which OpenCV adds up to 255.
            assert abs(mixed[row] - expected).max() <= 0.5 + 255 * 4 * np.finfo(np.float32).eps


def test_cutmix_exchanges_one_box_of_the_returned_share():
    for draws in many_draws(50):
        originals, mixed = pair(), pair()
        share = mix_pair(*mixed, 0, 1.0, draws)
        exchanged = (mixed[0] == originals[1]).all(axis=-1)  # random colors differ
        assert exchanged.mean() == share
        rows, columns = exchanged.any(axis=1), exchanged.any(axis=0)
        assert exchanged.sum() == rows.sum() * columns.sum()
        for row in (0, 1):
            expected = np.where(exchanged[..., None], originals[1 - row], originals[row])
            assert (mixed[row] == expected).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 3.0])
def test_the_share_follows_the_beta_distribution(alpha):
    for draws in many_draws(20):
        share = mix_pair(*pair(), alpha, 0, draws)
        assert stats.beta.cdf(share, alpha, alpha) == pytest.approx(draws[1], abs=1e-6)


def test_the_box_is_as_large_as_the_share_unless_the_border_cuts_it_off():
    for share_draw in (0.1, 0.5, 0.9):
        share = mix_pair(*pair(), 0, 1.0, np.array([0, share_draw, 0.5, 0.5]))
        # With alpha 1 the share is uniform. Each side is rounded at both ends.
        assert abs(np.sqrt(share) - np.sqrt(share_draw)) <= 1 / SIDE
        in_corner = mix_pair(*pair(), 0, 1.0, np.array([0, share_draw, 0, 0]))
        assert abs(np.sqrt(in_corner) - np.sqrt(share_draw) / 2) <= 0.5 / SIDE


def test_with_both_each_pair_gets_one_of_them():
    methods = []
    for draws in many_draws(200):
        originals, mixed = pair(), pair()
        mix_pair(*mixed, 1.0, 1.0, draws)
        unchanged = (mixed[0] == originals[0]) | (mixed[0] == originals[1])
        methods.append("cutmix" if unchanged.all() else "mixup")
    # A standard error of a fair coin's share is 0.035.
    assert 0.3 < methods.count("cutmix") / 200 < 0.7
