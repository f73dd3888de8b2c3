import pytest

from common.shares import share_interval


def test_a_share_has_an_exact_interval() -> None:
    assert share_interval(0, 100) == (0, pytest.approx(0.0362, abs=1e-4))
    assert share_interval(5, 100) == pytest.approx((0.0164, 0.1128), abs=1e-4)
    assert share_interval(100, 100)[1] == 1
