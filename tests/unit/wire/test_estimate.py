"""Token estimates follow what providers reported."""

from sidecar.wire.estimate import START_BYTES_PER_TOKEN, Ratio


def test_starts_with_a_known_ratio() -> None:
    assert Ratio().tokens(400) == round(400 / START_BYTES_PER_TOKEN)
    assert Ratio().tokens(1) == 1
    assert Ratio().tokens(0) == 0


def test_follows_the_median_of_the_latest_and_ignores_the_implausible() -> None:
    ratio = Ratio()
    for size, tokens in ((300, 100), (200, 100), (10_000, 2), (1, 1000), (10**6, 100), (250, 100), (5000, 100)):
        ratio.observe(size, tokens)
    assert ratio.bytes_per_token == 2.75  # of 3, 2, 2.5 and 50
    for _ in range(300):
        ratio.observe(600, 100)
    assert ratio.tokens(600) == 100
