import math

import numpy as np
import pytest
import torch

from companion.mathematics import landscapes
from entropy_dynamics import theory


@pytest.mark.parametrize("probability, entropy", [(0.2, 0.7), (0.5, 2.0), (1e-3, 1.0), (0.3, 0.62), (0.1, 6.5)])
def test_policy_at_has_what_was_asked_for(probability, entropy):
    z = landscapes.policy_at(probability, entropy, 1000)
    assert z.softmax(-1)[0].item() == pytest.approx(probability)
    assert theory.entropy(z).item() == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize("probability, entropy", [(0.5, 0.5), (0.99, 2.0), (0.01, 8.0)])
def test_policy_at_refuses_the_impossible(probability, entropy):
    with pytest.raises(ValueError, match=f"p = {probability} and H = {entropy}"):
        landscapes.policy_at(probability, entropy, 1000)


def test_lowest_discriminator_is_a_bound_that_is_attained():
    threshold = landscapes.lowest_entropy_that_attains_minimum()
    assert threshold == pytest.approx(0.52412, abs=1e-5)
    for h in (0.53, 1.0, 3.0):
        p = math.exp(-1 - h)
        s = theory.discriminator(landscapes.policy_at(p, h, 500))[0].item()
        assert s == pytest.approx(-p, abs=1e-9)
    with pytest.raises(ValueError):
        landscapes.policy_at(math.exp(-1 - 0.51), 0.51, 500)


def test_lowest_over_all_policies_is_found_by_gradient_descent_too():
    p, s = landscapes.lowest_over_all_policies()
    assert (p, s) == (pytest.approx(0.176, abs=5e-4), pytest.approx(-0.2239, abs=5e-5))
    z = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        theory.discriminator(z)[:, 0].sum().backward()
        optimizer.step()
    best = theory.discriminator(z.detach())[:, 0].min().item()
    assert s - 1e-6 <= best <= s + 1e-3


def test_simplex_field_is_inside_and_flows_uphill():
    field = landscapes.simplex_field(20)
    p = field[["p1", "p2", "p3"]].to_numpy()
    assert len(field) == 19 * 18 / 2
    assert (p > 0).all() and np.allclose(p.sum(1), 1)
    assert np.allclose(field.s1, field.p1 * (field.entropy + np.log(field.p1)))
    flow = field[["flow1", "flow2", "flow3"]].to_numpy()
    assert np.allclose(flow.sum(1), 0)
    assert ((-np.log(p) * flow).sum(1) >= -1e-15).all()  # dH = -sum log p dp
    with pytest.raises(ValueError, match="resolution is 3"):
        landscapes.simplex_field(3)


def test_attainable_region():
    assert landscapes.binary_entropy(0.5) == pytest.approx(math.log(2))
    assert landscapes.binary_entropy(np.array([0.0, 1.0])).tolist() == [0, 0]
    assert landscapes.is_attainable(0.5, math.log(2), 3) and not landscapes.is_attainable(0.5, 0.69, 3)
    curves = landscapes.discriminator_curves([1.0], 100)
    assert curves.s[curves.attainable].min() == pytest.approx(-math.exp(-2), abs=1e-4)
    plane = landscapes.discriminator_plane(100, points=30)
    inside = plane.dropna()
    assert 0 < len(inside) < len(plane)
    assert np.allclose(inside.s, inside.p * (inside.entropy + np.log(inside.p)))
