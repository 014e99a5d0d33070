"""`svp bench order` at a small size: what it prints is what it measured."""

from svp.train.bench.order import ORDERS, run


def test_quality_and_cost_of_every_order() -> None:
    found = run(images=20_000, huge=5_000_000)
    assert found.shards.keys() == found.noise.keys() == found.first_ms.keys() == set(ORDERS)
    assert found.shards["window:64"] < 70 < found.shards["global"]
    assert found.noise["global"] < 1.3 < found.noise["window:64"]
    assert [found.held[name] for name in ORDERS] == [20_000, 4096, 16_384]
    text = "\n".join(found.lines())
    assert "20,000 images in shards of 64" in text and "any batch of 5,000,000 images" in text
