import itertools
import math

import numpy as np
import pytest
import torch

from companion.mathematics import sampling
from companion.mathematics.verification import log_log_slope, random_policies
from entropy_dynamics import theory


def test_top_p_by_hand():
    z = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    assert sampling.top_p_logits(z, 0.7).isfinite().tolist() == [True, True, False, False]
    assert sampling.top_p_logits(z, 0.81).isfinite().tolist() == [True, True, True, False]
    assert sampling.top_p_logits(z, 0.01).isfinite().tolist() == [True, False, False, False]
    assert sampling.top_p_logits(z.flip(-1), 0.7).isfinite().tolist() == [False, False, True, True]
    assert torch.equal(sampling.top_p_logits(z, 1.0), z)
    large, _ = random_policies(1, 49152, seed=0)
    assert torch.equal(sampling.top_p_logits(large.float(), 1.0), large.float())
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"top_p is {bad}"):
            sampling.top_p_logits(z, bad)


def test_expected_centred_by_hand():
    q, d = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([1.0, 2.0, 4.0]).double()
    p = torch.tensor([0.2, 0.3, 0.5]).double()
    assert sampling.expected_centred(q, d).item() == pytest.approx(1.5)
    # The third token is never sampled, so no weight can bring it back: 0.2 * 1 + 0.3 * 2.
    assert sampling.expected_centred(q, d, policy=p).item() == pytest.approx(0.8)


def test_centred_variance_is_the_enumerated_variance():
    z, _ = random_policies(4, 12, seed=0)
    p = z.softmax(-1)
    s = theory.discriminator(z)
    variance = (p * s**2).sum(-1) - (p * s).sum(-1) ** 2
    torch.testing.assert_close(sampling.centred_variance(z), variance)


def test_sampler_bias_is_broken_and_repaired_as_claimed():
    z, k = random_policies(50, 30, seed=2)
    bias = sampling.sampler_bias(z, k, temperature=0.7, top_p=0.9, stale_step=1.0)
    restored = ["on policy", "stale, weighted", "temperature, weighted", "temperature, own", "top-p, own"]
    assert bias[restored].abs().max().max() < 1e-14
    assert bias[["stale", "temperature", "top-p", "top-p, weighted"]].mean().abs().min() > 0.005
    # One state by brute force.
    row, d = 3, sampling.centred_discriminator(z[3])
    q = (z[row] / 0.7).softmax(-1)
    assert bias["temperature"][row] == pytest.approx(sum(float(a * b) for a, b in zip(q, d)))
    trained = z[row] + theory.grpo_logit_update(z[row], k[row], 1.0)
    stale = float((z[row].softmax(-1) * sampling.centred_discriminator(trained)).sum())
    assert bias["stale"][row] == pytest.approx(stale)
    weight = (z[row].softmax(-1) / q).log()  # importance weights of a large tempered sample
    drawn = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    values = weight.exp()[drawn] * d[drawn]
    assert values.mean().abs() < 4 * values.std() / math.sqrt(len(values)) < d[drawn].mean().abs() / 2
    inside = sampling.top_p_logits(z[row], 0.9).isfinite()
    p = z[row].softmax(-1)
    assert bias["top-p, weighted"][row] == pytest.approx(float((p * d)[inside].sum()))
    assert bias["top-p"][row] == pytest.approx(float((p * d)[inside].sum() / p[inside].sum()))


def test_the_stale_bias_is_that_of_a_plain_sum():
    z, _ = random_policies(3, 5, seed=4)
    p, bias = z.softmax(-1), sampling.stale_bias(z, 0.7)
    for row, k in itertools.product(range(3), range(5)):
        delta = 0.7 * (torch.nn.functional.one_hot(torch.tensor(k), 5) - p[row])
        ahead = sampling.centred_discriminator(z[row] + delta)
        assert bias[row, k].item() == pytest.approx((p[row] * ahead).sum().item())
    slope = (sampling.stale_bias(z, 1e-5) - sampling.stale_bias(z, -1e-5)) / 2e-5
    torch.testing.assert_close(sampling.stale_slope(z), slope, rtol=1e-6, atol=1e-10)


def test_batch_means_have_mean_zero_and_the_exact_standard_error():
    z, _ = random_policies(20, 50, seed=3)
    means = sampling.batch_means(z, [20, 2000], batches=400, seed=0)
    rms = means.groupby("size").centred.apply(lambda x: math.sqrt((x**2).mean()))
    exact = math.sqrt(sampling.centred_variance(z).mean())
    for size in (20, 2000):
        mean = means[means["size"] == size].centred.mean()
        assert abs(mean) < 4 * exact / math.sqrt(size * 400)
        assert rms[size] == pytest.approx(exact / math.sqrt(size), rel=4 / math.sqrt(800))
    assert means.discriminator.mean() == pytest.approx(theory.expected_discriminator(z).mean().item(), abs=0.01)


def test_sum_over_enumerated_responses_has_zero_expectation():
    for seed in range(5):
        sequences = sampling.enumerate_sequences(4, 3, seed=seed)
        assert len(sequences) == 1 + 3 + 9 * 4
        assert sequences.probability.sum() == pytest.approx(1, abs=1e-14)
        assert (sequences.probability * sequences.centred).sum() == pytest.approx(0, abs=1e-15)
        assert sequences.length.max() == 3
    with pytest.raises(ValueError, match="got 1 and 3"):
        sampling.enumerate_sequences(1, 3, seed=0)


@pytest.mark.parametrize("responses", [1, 2, 3])
def test_expected_batch_mean_against_enumeration_of_batches(responses):
    sequences = sampling.enumerate_sequences(3, 3, seed=0)
    p, length, d = (sequences[name].to_numpy() for name in ("probability", "length", "centred"))
    tokens = per_response = 0.0
    for batch in map(list, itertools.product(range(len(p)), repeat=responses)):
        weight = np.prod(p[batch])
        tokens += weight * d[batch].sum() / length[batch].sum()
        per_response += weight * (d[batch] / length[batch]).mean()
    assert sampling.expected_batch_mean(sequences, responses, of="tokens") == pytest.approx(tokens, abs=1e-15)
    assert sampling.expected_batch_mean(sequences, responses, of="sequences") == pytest.approx(per_response, abs=1e-15)


def test_the_token_mean_loses_its_bias_and_the_sequence_mean_keeps_it():
    sequences = sampling.enumerate_sequences(3, 4, seed=0)
    sizes = [32, 64, 128, 256]
    bias = [abs(sampling.expected_batch_mean(sequences, n, of="tokens")) for n in sizes]
    assert log_log_slope(sizes, bias) == pytest.approx(-1, abs=0.05)
    assert abs(sampling.expected_batch_mean(sequences, 256, of="sequences")) > 50 * bias[-1]
    with pytest.raises(ValueError, match="'words'"):
        sampling.expected_batch_mean(sequences, 2, of="words")
