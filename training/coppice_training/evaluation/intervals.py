"""Wilson's interval for a share of right answers."""

import math

_Z = 1.959963984540054
"""Of 95 %."""


def wilson(right: int, count: int) -> tuple[float, float]:
    """Lower and upper bound, 0 to 1, of the share behind `right` of `count` (95 %)."""
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"expected 0 <= right <= count, got {right} of {count}")
    share, spread = right / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def describe(right: int, count: int) -> str:
    """For example "97.5 % (87-100 %, n=40)"."""
    low, high = wilson(right, count)
    return f"{100 * right / count:.1f} % ({100 * low:.0f}-{100 * high:.0f} %, n={count})"
