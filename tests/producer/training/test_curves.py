"""Curves are drawn of whatever a fine-tune measured: one point, a hundred thousand, spikes."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.models.errors import InputError
from tidemill.models.metrics import Point
from tidemill.producer.training.curves import draw_terminal, save

SVG = "{http://www.w3.org/2000/svg}"
FALLING = [Point(step, 2 / step, 1 - 1 / step, 2.5 / step if step % 5 == 0 else None) for step in range(1, 41)]
TRAINING, VALIDATION = "#1d4e89", "#f08a24"

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
any_points = st.lists(st.builds(Point, st.integers(0, 2**53), *[numbers] * 6), min_size=1, max_size=30)


def written(points: list[Point], folder: Path, title: str = "ft-1") -> ET.Element:
    save(points, folder / "curve.svg", title)
    return ET.fromstring((folder / "curve.svg").read_text("utf-8"))


def lines(svg: ET.Element, colour: str) -> list[list[tuple[float, float]]]:
    """The places of each line that has this colour, without the legend's."""
    drawn = [each.attrib["points"] for each in svg.iter(f"{SVG}polyline") if each.attrib["stroke"] == colour]
    legend = [each for each in svg.iter(f"{SVG}polyline") if each.attrib["stroke-width"] == "3"]
    hidden = {each.attrib["points"] for each in legend}
    pairs = [[pair.split(",") for pair in text.split()] for text in drawn if text not in hidden]
    return [[(float(x), float(y)) for x, y in each] for each in pairs]


def texts(svg: ET.Element) -> list[str]:
    return [each.text or "" for each in svg.iter(f"{SVG}text")]


# --- in a terminal ---


def test_a_terminal_shows_both_charts_within_its_width_and_without_colours() -> None:
    drawn = draw_terminal(FALLING, 72, "ft-1 · gpt-4.1-mini")
    assert drawn.startswith("ft-1 · gpt-4.1-mini\n")
    assert "loss (last)  ⠒⠒ training 0.05  o validation 0.0625\n" in drawn
    assert "accuracy (last)  ⠒⠒ training 0.975\n" in drawn
    assert max(map(len, drawn.splitlines())) <= 72
    assert "\x1b" not in drawn
    assert len(drawn.splitlines()) < 24


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right() -> None:
    rows = [line for line in draw_terminal(FALLING, 60, "t").splitlines() if re.search("[│┤]", line)][:7]
    dots = [(row, column) for row, line in enumerate(rows) for column, sign in enumerate(line) if "⠀" < sign <= "⣿"]
    assert min(dots, key=lambda at: at[1])[0] == 0
    assert max(dots, key=lambda at: at[1])[0] == 6
    assert sum(line.count("o") for line in rows) == 8


def test_a_terminal_is_told_that_there_is_nothing_and_cannot_be_acted_on_by_a_title() -> None:
    assert draw_terminal([Point(1)], 80, "a\x1b[2J\nb") == ("a\\x1b[2J b\nNeither loss nor accuracy is known yet.")


@settings(max_examples=100, deadline=None)
@given(points=any_points, width=st.integers(-1, 200))
def test_any_numbers_fit_any_terminal(points: list[Point], width: int) -> None:
    assert max(map(len, draw_terminal(points, width, "title").splitlines())) <= max(width, 40)


# --- in a file ---


def test_an_svg_has_a_line_and_a_legend_for_all_that_was_measured(tmp_path: Path) -> None:
    svg = written(FALLING, tmp_path)
    loss, accuracy = lines(svg, TRAINING)
    assert [x for x, _ in loss] == sorted(x for x, _ in loss)
    assert [y for _, y in loss] == sorted(y for _, y in loss), "a falling loss goes down"
    assert [y for _, y in accuracy] == sorted((y for _, y in accuracy), reverse=True)
    assert [len(line) for line in lines(svg, VALIDATION)] == [8]
    assert {"loss", "accuracy", "training, last 0.05", "validation, last 0.0625", "step"} <= set(texts(svg))
    assert len([text for text in texts(svg) if text.startswith("validation")]) == 1


def test_a_title_is_text_whatever_it_holds(tmp_path: Path) -> None:
    assert texts(written(FALLING, tmp_path, "<b>&\"'$x\0\ud800\n"))[0] == "<b>&\"'$x\\x00\\ud800"


def test_one_point_is_a_dot_in_the_middle(tmp_path: Path) -> None:
    svg = written([Point(7, 0.5)], tmp_path)
    assert [(each.attrib["cx"], each.attrib["fill"]) for each in svg.iter(f"{SVG}circle")] == [("410.0", TRAINING)]
    assert {"6", "7", "8", "0.50"} <= set(texts(svg))
    assert "accuracy" not in texts(svg)
    assert svg.attrib["height"] == "350", "one chart needs no room for two"


def test_values_that_never_change_are_a_level_line(tmp_path: Path) -> None:
    loss, accuracy = lines(written([Point(step, 0.5, 1.0) for step in range(9)], tmp_path), TRAINING)
    assert len({y for _, y in loss}) == len({y for _, y in accuracy}) == 1


@pytest.mark.parametrize("values", [(0.0, 5e-324), (1e-300, 1e-300), (1e308, -1e308), (1.0, 1 + 2**-52), (-5.0, -5.0)])
def test_numbers_at_the_edge_of_what_a_float_holds_are_drawn(values: tuple[float, float], tmp_path: Path) -> None:
    [line] = lines(written([Point(1, values[0]), Point(2, values[1])], tmp_path), TRAINING)
    assert all(92 <= y <= 292 for _, y in line)


def test_a_spike_neither_flattens_the_rest_nor_goes_unsaid(tmp_path: Path) -> None:
    calm = [Point(step, 2 - step / 100) for step in range(100)]
    spiked = [*calm[:50], Point(50, 1e9), *calm[51:]]
    [before], [after] = lines(written(calm, tmp_path), TRAINING), lines(written(spiked, tmp_path), TRAINING)
    assert after[:50] + after[51:] == before[:50] + before[51:]
    assert after[50][1] == 92, "the spike ends at the chart's edge"
    assert "points above this chart: 1, the highest at 1e+09" in texts(written(spiked, tmp_path))
    assert "points above this chart: 1, the highest at 1e+09" in draw_terminal(spiked, 80, "t")


def test_a_rise_that_stays_is_shown_whole(tmp_path: Path) -> None:
    diverged = [Point(step, 1.0 if step < 50 else 1000.0) for step in range(100)]
    assert not any("above" in text for text in texts(written(diverged, tmp_path)))


def test_a_hundred_thousand_points_become_few_and_no_extreme_is_lost(tmp_path: Path) -> None:
    many = [Point(step, 1 + step % 2 / 10 + (step == 70_003) / 5) for step in range(100_000)]
    svg = written(many, tmp_path)
    [means], [band] = lines(svg, TRAINING), lines(svg, "#bdd0e6")
    assert len(means) == 240
    assert len(band) == 480
    assert (tmp_path / "curve.svg").stat().st_size < 50_000
    spike = min(band, key=lambda at: at[1])
    assert spike[0] == pytest.approx(64 + 692 * 0.70003, abs=0.1)


@settings(max_examples=100, deadline=None)
@given(points=any_points)
def test_any_numbers_stay_within_the_picture(points: list[Point], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    if all(value is None for point in points for value in (point.train_loss, point.valid_loss, point.full_valid_loss)):
        points = [*points, Point(1, 0.5)]
    svg = written(points, folder)
    for line in svg.iter(f"{SVG}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 800
            assert 0 <= y <= float(svg.attrib["height"])


def test_a_png_shows_the_same_lines(tmp_path: Path) -> None:
    from PIL import Image

    save(FALLING, tmp_path / "curve.PNG", "$x^2$ 猫 <b>")
    with Image.open(tmp_path / "curve.PNG") as picture:
        assert (picture.format, picture.size) == ("PNG", (1600, 1280))
        pixels = picture.convert("RGB")
    line = lines(written(FALLING, tmp_path), TRAINING)[0]
    x, y = line[len(line) // 2]
    assert pixels.getpixel((round(2 * x), round(2 * y))) == (0x1D, 0x4E, 0x89)
    assert pixels.getpixel((1590, 10)) == (255, 255, 255)


# --- what cannot be done ---


@pytest.mark.parametrize("name", ["curve.pdf", "curve", "svg", "curve.svg.gz"])
def test_other_endings_are_refused_with_the_two_that_are_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has to end in \.svg or \.png"):
        save(FALLING, tmp_path / name, "t")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_a_png_names_the_way_out_and_an_svg_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'tidemill\[plots\]', or give a name that ends in \.svg"):
        save(FALLING, tmp_path / "curve.png", "t")
    save(FALLING, tmp_path / "curve.svg", "t")
    assert [each.name for each in tmp_path.iterdir()] == ["curve.svg"]


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no-folder.*cannot be written: No such file or directory\.\Z"):
        save(FALLING, tmp_path / "no-folder" / "curve.svg", "t")
    with pytest.raises(InputError, match=r"was not written: neither loss nor accuracy is known yet\.\Z"):
        save([], tmp_path / "curve.svg", "t")
