"""What a picture costs and how large it is sent follow the provider's guide."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.models.options import Detail
from tidemill.models.vision import picture_tokens, usable_size

MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "gpt-5-nano", "gpt-5.4", "gpt-5.5", "gpt-6-luna", "llava"]
DETAILS: list[Detail] = ["auto", "low", "high", "original"]
models, details = st.sampled_from(MODELS), st.sampled_from(DETAILS)
sides = st.integers(1, 100_000)


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-2025-04-14", (1024, 1024), "auto", 765),
        ("gpt-4o-mini-2024-07-18", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-5", (1024, 1024), "original", 70 + 4 * 140),
        ("o1-pro", (512, 512), "high", 75 + 150),
        ("o4-mini", (1024, 1024), "high", 1762),  # 1,024 patches
        ("gpt-4.1-mini", (1800, 2400), "high", 2353),  # 1,452 patches
        ("ft:gpt-5-mini-2025-08-07:mill::x1", (1024, 1024), "high", 1659),
        ("openai/gpt-5.4-nano", (1024, 1024), "high", 2520),
    ],
)
def test_tokens_are_those_of_the_guide(model: str, size: tuple[int, int], detail: Detail, tokens: int) -> None:
    counted = picture_tokens(model, *size, detail)
    assert (counted.tokens, counted.is_estimate) == (tokens, False)


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-6-astra", (640, 480), "high", 360),
        ("gpt-6-luna", (640, 480), "low", 231),
        ("gpt-6.1-sol", (6400, 1440), "auto", 10_800),  # auto is original
        ("gpt-5.6-terra", (6400, 1440), "high", 2_843),
        ("gpt-5.4", (6400, 1440), "auto", 1_152),  # auto is high: 2048 px a side
        ("llama3.2-vision:11b", (640, 480), "original", 360),
    ],
)
def test_what_is_not_documented_is_an_estimate(model: str, size: tuple[int, int], detail: Detail, tokens: int) -> None:
    counted = picture_tokens(model, *size, detail)
    assert (counted.tokens, counted.is_estimate) == (tokens, True)


@pytest.mark.parametrize(
    ("model", "size", "detail", "max_side", "usable"),
    [
        ("gpt-5-mini", (1800, 2400), "high", 2048, (1056, 1408)),
        ("gpt-4o", (4000, 3000), "auto", 2048, (1024, 768)),
        ("gpt-4o", (2048, 4096), "high", 9999, (768, 1536)),
        ("gpt-6-luna", (4000, 3000), "auto", 2048, (2048, 1536)),
        ("gpt-6-luna", (4000, 3000), "auto", 9999, (4000, 3000)),
        ("gpt-6-luna", (4000, 3000), "low", 2048, (512, 384)),
        ("gpt-6-luna", (100, 80), "high", 2048, (100, 80)),
        ("llava", (100_000, 3), "auto", 2048, (2048, 1)),
    ],
)
def test_a_picture_is_shrunk_to_what_the_model_sees_of_it(
    model: str, size: tuple[int, int], detail: Detail, max_side: int, usable: tuple[int, int]
) -> None:
    assert usable_size(model, *size, detail, max_side) == usable


@settings(deadline=None)
@given(models, sides, sides, details, st.integers(1, 10_000))
def test_a_usable_size_is_within_every_bound(
    model: str, width: int, height: int, detail: Detail, max_side: int
) -> None:
    usable_width, usable_height = usable_size(model, width, height, detail, max_side)
    assert 1 <= usable_width <= min(width, max_side)
    assert 1 <= usable_height <= min(height, max_side)
    # The proportions are kept to half a pixel of each rounding, of which there are three.
    assert abs(usable_width * height - usable_height * width) <= 2 * (width + height)
    assert usable_size(model, height, width, detail, max_side) == (usable_height, usable_width)


@settings(deadline=None)
@given(models, sides, sides, details)
def test_shrinking_to_the_usable_size_changes_neither_price_nor_size_again(
    model: str, width: int, height: int, detail: Detail
) -> None:
    usable = usable_size(model, width, height, detail, 100_000)
    assert usable_size(model, *usable, detail, 100_000) == usable
    assert picture_tokens(model, *usable, detail) == picture_tokens(model, width, height, detail)


@settings(deadline=None)
@given(models, sides, sides)
def test_low_detail_is_never_dearer_and_high_detail_has_a_bound(model: str, width: int, height: int) -> None:
    low, high = (picture_tokens(model, width, height, detail).tokens for detail in ("low", "high"))
    assert 0 < low <= high <= {"gpt-4o-mini": 2833 + 8 * 5667}.get(model, 3_779)
