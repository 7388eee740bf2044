"""The colours of the figures can be told apart, also by readers who lack one kind of cone."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from companion.figures import style

# Vision without one kind of cone on linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.0.
VISIONS = {
    "all cones": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
# Linear RGB to the responses of the cones, and their cube roots to lightness and two hues: Ottosson 2020, OKLab.
CONES = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
CONES = np.array([*CONES, [0.0883024619, 0.2817188376, 0.6299787005]])
LAB = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
LAB = np.array([*LAB, [0.0259040371, 0.7827717662, -0.8086757660]])
LEAST = 0.1  # in OKLab, where black and white are 1 apart; about five steps that are just noticeable


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def seen(colour, vision="all cones"):
    return LAB @ np.cbrt(CONES @ np.clip(VISIONS[vision] @ linear(colour), 0, 1))


def too_near(palette, least=LEAST):
    return [
        (vision, one, other)
        for vision in VISIONS
        for one, other in itertools.combinations(palette, 2)
        if np.linalg.norm(seen(palette[one], vision) - seen(palette[other], vision)) < least
    ]


def test_the_measure_agrees_with_published_values():
    assert seen("white") == pytest.approx([1, 0, 0], abs=1e-4)
    assert seen("black") == pytest.approx([0, 0, 0], abs=1e-12)
    assert seen("red") == pytest.approx([0.62796, 0.22486, 0.12585], abs=1e-4)
    for vision in VISIONS:  # no vision tints grey
        assert seen("0.5", vision)[1:] == pytest.approx([0, 0], abs=1e-3)
    assert abs(seen("red")[1] - seen("lime")[1]) > 0.4
    for vision in ("deuteranopia", "protanopia"):  # red and green fall together in hue, blue and yellow do not
        assert (
            abs(seen("red", vision)[1] - seen("lime", vision)[1]) < 0.08 < 0.4 < abs(seen("red")[1] - seen("lime")[1])
        )
        assert abs(seen("blue", vision)[2] - seen("yellow", vision)[2]) > 0.4


def test_methods_and_hues_can_be_told_apart():
    assert not too_near(style.COLOURS)
    hues = ("INK", "NEUTRAL", "PALE", "POSITIVE", "NEGATIVE", "ACCENT", "SKY", "VIOLET", "AMBER", "PURPLE")
    assert not too_near({name: getattr(style, name) for name in hues})


def test_colours_that_are_too_near_are_found():
    assert too_near({"one": "#3366f2", "other": "#3a6cf0"})[0] == ("all cones", "one", "other")
    # Apart for most readers: a red and a green of one lightness.
    assert {vision for vision, *_ in too_near({"red": "#c8553d", "green": "#7c8a2e"})} == {"deuteranopia", "protanopia"}
    # seaborn's palette for the colour-blind, with which the ten methods could not be told apart
    seaborn = dict(enumerate(["#0173b2", "#029e73", "#56b4e9", "#d55e00", "#cc78bc", "#ca9161", "#ece133", "#949494"]))
    assert too_near(seaborn)


def test_colours_stand_out_from_the_page():
    for name, colour in style.COLOURS.items():
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear(colour))
        assert 1.05 / (luminance + 0.05) > 1.9, name  # contrast with white, WCAG 2


def test_a_method_keeps_its_colour_with_its_strength():
    assert style.colour("Clip_B 2.0") == style.colour("Clip_B") == style.COLOURS["Clip_B"]
    assert style.colour("random mask like Clip_V") == style.COLOURS["random mask"]
    assert style.colour("OPEFO") == style.NEUTRAL
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
