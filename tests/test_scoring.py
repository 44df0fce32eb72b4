"""Scores from shadow models: examples worked by hand, and what must not change them."""

import numpy as np
import pytest

from mialab.attacks.lira import lira

# Even models are members, odd ones are not; models 2j and 2j + 1 are partners. For target 0, the answers of the
# shadow models to record 0 are 3, 4, 5 (IN) and 0, 1, 2 (OUT), to record 1 they are 6, 10, 8 and 0, 4, 2.
PHI = np.array([[6.0, 4], [9, 9], [3, 6], [0, 0], [4, 10], [1, 4], [5, 8], [2, 2]])
MEMBER = np.arange(8)[:, None] % 2 == [0, 0]
PARTNER = np.broadcast_to(np.arange(8)[:, None] ^ 1, (8, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Means 4 and 1 with variance 1; means 8 and 2 with variance 4.
        ({}, [(5**2 - 2**2) / 2, (2**2 / 4 - 4**2 / 4) / 2]),
        ({"online": False}, [5, 1]),
        (
            {"online": False, "offline": "density"},
            [(5**2 + np.log(2 * np.pi)) / 2, (1 + np.log(8 * np.pi)) / 2],
        ),
        # The pooled variance is (2 x 1 + 2 x 4) / (2 + 2).
        ({"variance": "pooled"}, [(5**2 - 2**2) / 5, (2**2 - 4**2) / 5]),
        ({"variance": "pooled", "online": False}, [5 / 2.5**0.5, 2 / 2.5**0.5]),
        (
            {"variance": "pooled", "online": False, "offline": "density"},
            [(5**2 / 2.5 + np.log(5 * np.pi)) / 2, (2**2 / 2.5 + np.log(5 * np.pi)) / 2],
        ),
    ],
)
def test_lira_worked_by_hand(options, expected):
    np.testing.assert_allclose(lira(PHI, MEMBER, PARTNER, **options)[0], expected, rtol=1e-12)


def test_the_partner_is_no_shadow_model_and_others_are():
    changed = PHI.copy()
    changed[1] += 100
    np.testing.assert_array_equal(
        lira(changed, MEMBER, PARTNER, online=False)[0], lira(PHI, MEMBER, PARTNER, online=False)[0]
    )
    nobody = np.full_like(PARTNER, -1)
    # Without partners, model 1 is one of four OUT models, which answer 9, 0, 1, 2: mean 3, variance 50 / 3.
    plain = lira(PHI, MEMBER, nobody, online=False)[0, 0]
    assert plain == pytest.approx((6 - 3) / (50 / 3) ** 0.5, rel=1e-12)
