"""The explorer in a real browser: its numbers are the library's, its controls work, and everybody can read them."""

import functools
import math
import shutil

import pytest
import torch
from chromium import complaints_of_axe, missing

from companion.mathematics import remainder
from companion.provenance import ROOT
from entropy_dynamics import clipping, grpo, methods, theory
from entropy_dynamics.control import TargetEntropy
from entropy_dynamics.token_statistics import token_statistics

EXPLORER = ROOT / "site" / "explorer"
ALPHAS = [sign * size for size in (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0) for sign in (1, -1)]
FINISHED = "document.getElementById('step').textContent === '300 of 300'"


def test_what_is_missing_fails_in_ci_and_is_skipped_elsewhere(monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must have"):
        missing("there is no Chromium")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="there is no Chromium"):
        missing("there is no Chromium")


@pytest.fixture
def opened(browser):
    """Opens the page from a file; every error in it, and every request for something else, fails the test."""
    contexts, complaints = [], []

    def open_page(folder=EXPLORER, **options):
        # with reduced motion a run shows its end at once
        context = browser.new_context(
            **{"reduced_motion": "reduce", "viewport": {"width": 1200, "height": 850}} | options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
        page.goto((folder / "index.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


# --- The numbers of part 1 ---

NUMBERS_OF = """
([states, tokens, alphas]) => states.map((logits, i) => {
  const state = theory.state(logits);
  const directions = [theory.grpo_logit_update(state, tokens[i], 1), theory.single_logit_update(state, tokens[i], 1)];
  const at_steps = f =>
    alphas.map(alpha => directions.map(direction => f(direction.map(x => alpha * x), alpha, direction)));
  return {
    p: theory.log_policy(state).p,
    entropy: theory.entropy(state),
    discriminator: theory.discriminator(state),
    expected_discriminator: theory.expected_discriminator(state),
    sign_boundary: theory.sign_boundary(state),
    disagreement_band: theory.disagreement_band(state).map(Number),
    first_order_change: at_steps(delta => theory.first_order_change(state, delta)),
    second_order_change: at_steps(delta => theory.second_order_change(state, delta)),
    exact_change: at_steps(delta => theory.exact_change(state, delta)),
    remainder: at_steps(delta => theory.remainder(state, delta)),
    remainder_bound: at_steps((delta, alpha, direction) =>
      theory.remainder_bound(alpha, logits.length, theory.span(state, direction))),
    trust_radius: Math.min(theory.trust_radius(state, directions[0]), 1e9),
  };
})
"""


@functools.cache
def grid():
    """(logits, tokens) by vocabulary: policies from flat to peaked, each with a likely, a middling and a rare token."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for size in (2, 3, 5, 12, 30, 60):
        random = [spread * torch.randn(size, generator=generator, dtype=torch.float64) for spread in (0.3, 1, 3, 6)]
        peaked = [0.3 * torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3)]
        for logits, peak in zip(peaked, (0.6, 0.9, 0.999)):
            logits[0] = math.log(peak / (1 - peak)) + logits[1:].logsumexp(-1)
        states = torch.stack(random + peaked)
        order = states.argsort(-1)
        tokens = torch.cat([order[:, 0], order[:, size // 2], order[:, -1]])
        cases.append((states.repeat(3, 1), tokens))
    return cases


@functools.cache
def numbers_of_the_library(case):
    logits, tokens = grid()[case]
    size = logits.shape[-1]
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    p = logits.softmax(-1)
    other = p.scatter(-1, tokens[:, None], 0).amax(-1)
    span = torch.stack([1 - p.gather(-1, tokens[:, None])[:, 0] + other, torch.ones(len(p))], -1)
    states = logits[:, None, None].expand(-1, len(alphas), 2, -1)
    updates = (theory.grpo_logit_update, theory.single_logit_update)
    steps = alphas[:, None, None] * torch.stack([update(logits, tokens, 1.0) for update in updates], 1)[:, None]
    return {
        "p": p,
        "entropy": theory.entropy(logits),
        "discriminator": theory.discriminator(logits),
        "expected_discriminator": theory.expected_discriminator(logits),
        "sign_boundary": theory.sign_boundary(logits),
        "disagreement_band": theory.disagreement_band(logits).double(),
        "first_order_change": theory.first_order_change(states, steps),
        "second_order_change": theory.second_order_change(states, steps),
        "exact_change": theory.exact_change(states, steps),
        "remainder": remainder.remainder(states, steps),
        "remainder_bound": (alphas[:, None] * span[:, None]) ** 2
        * (1 / 8 + 1 / (8 * math.e) + math.log(size - 1) / (12 * math.sqrt(3))),
        "trust_radius": remainder.trust_radius(logits, tokens).clamp(max=1e9),
    }


def deviations(page):
    """By name, the largest deviation from the library over the grid: relative, or over 1e-4 where less was expected."""
    worst = {}
    for case, (logits, tokens) in enumerate(grid()):
        shown = page.evaluate(NUMBERS_OF, [logits.tolist(), tokens.tolist(), ALPHAS])
        for name, expected in numbers_of_the_library(case).items():
            difference = torch.tensor([of_state[name] for of_state in shown], dtype=torch.float64) - expected
            deviation = (difference.abs() / expected.abs().clamp(min=1e-4)).max().item()
            worst[name] = max(worst.get(name, 0.0), deviation)
    return worst


def test_the_numbers_are_the_librarys(opened):
    assert any(theory.disagreement_band(logits).gather(-1, tokens[:, None]).any() for logits, tokens in grid())
    worst = deviations(opened())
    print("\n".join(f"{name:24} {value:.1e}" for name, value in worst.items()))
    assert max(worst.values()) < 1e-9


def test_no_remainder_exceeds_the_bound():
    for case in range(len(grid())):
        numbers = numbers_of_the_library(case)
        assert (numbers["remainder"].abs() < numbers["remainder_bound"]).all()


def with_a_change(tmp_path, file, right, wrong):
    """A copy of the explorer in which one place is wrong."""
    folder = shutil.copytree(EXPLORER, tmp_path / "explorer")
    text = (folder / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("right", "wrong", "seen_in"),
    [
        ("p_i * (h + log_p[i])", "p_i * (h - log_p[i])", "discriminator"),
        ("(p_i - square) * (log", "p_i * (log", "expected_discriminator"),
        ("s > 0 && s < baseline", "s < baseline", "disagreement_band"),
        ("x - alpha * p[g]", "x - (alpha * p[g]) / 2", "first_order_change"),
        ("-0.5 * weighted", "-0.25 * weighted", "second_order_change"),
        ("- Math.log1p(x);", "- x;", "exact_change"),
        ("entropy(moved(state, delta)) - h", "entropy(moved(state, delta)) + h", "remainder"),
        ("1 / (8 * Math.E)", "1 / (4 * Math.E)", "remainder_bound"),
        ("Math.min(radius(1), radius(-1))", "radius(1)", "trust_radius"),
    ],
)
def test_a_wrong_formula_is_seen(opened, tmp_path, right, wrong, seen_in):
    assert deviations(opened(with_a_change(tmp_path, "theory.js", right, wrong)))[seen_in] > 1e-3


# --- The controls of part 1 ---


def check_what_is_shown(page):
    """Numbers on the page against the library's for the whole vocabulary, the tail written out."""
    now = page.evaluate("one_state.current()")
    counts = torch.tensor(now["state"]["counts"])
    logits = torch.tensor(now["state"]["logits"], dtype=torch.float64).repeat_interleave(counts)
    token = counts[: now["token"]].sum()
    update = (
        theory.grpo_logit_update if page.locator("[name=kind][value=grpo]").is_checked() else theory.single_logit_update
    )
    delta = update(logits, token, now["alpha"])
    s, first = theory.discriminator(logits), theory.first_order_change(logits, delta)
    expected = {
        "H": theory.entropy(logits),
        "boundary": theory.sign_boundary(logits),
        "baseline": theory.expected_discriminator(logits),
        "S": s[token],
        "D": s[token] - theory.expected_discriminator(logits),
        "first": first,
        "second": first + theory.second_order_change(logits, delta),
        "exact": theory.exact_change(logits, delta),
    }
    for name, value in expected.items():
        shown = page.locator(f"#{name}").text_content().replace("−", "-")
        assert float(shown) == pytest.approx(value.item(), rel=6e-3, abs=1e-7), name
    return logits.softmax(-1), token


def test_sliders_work_by_keyboard(opened):
    page = opened()
    before, _ = check_what_is_shown(page)
    slider = page.get_by_role("slider", name="probability of sofa")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    after, _ = check_what_is_shown(page)
    assert after[1] > before[1]
    others = torch.arange(len(before)) != 1
    torch.testing.assert_close(after[others] / after[others].sum(), before[others] / before[others].sum())
    assert float(slider.get_attribute("aria-valuetext")) == pytest.approx(after[1].item(), rel=6e-3)

    page.get_by_role("slider", name="tail size").focus()
    page.keyboard.press("ArrowLeft")
    assert len(check_what_is_shown(page)[0]) == 504
    page.get_by_role("radio", name="sampled: the tail").focus()
    page.keyboard.press("Space")
    assert check_what_is_shown(page)[1] == 4
    page.get_by_role("radio", name="no other logit moves").focus()
    page.keyboard.press("Space")
    page.get_by_role("radio", name="push down").focus()
    page.keyboard.press("Space")
    page.get_by_role("slider", name="size").last.focus()
    page.keyboard.press("End")
    check_what_is_shown(page)
    assert page.evaluate("one_state.current().alpha") == pytest.approx(-2, rel=1e-2)


def test_sliders_work_by_pointer(opened):
    page = opened()
    before, _ = check_what_is_shown(page)
    box = page.get_by_role("slider", name="probability of moon").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    after, _ = check_what_is_shown(page)
    assert after[3] > 10 * before[3]


def test_examples_show_what_their_names_say(opened):
    page = opened()

    def shown(name):
        page.get_by_role("button", name=name).click()
        check_what_is_shown(page)
        return page.locator("#sentence").text_content()

    assert "lies in the band" in shown("In the band")
    assert "wrong direction" in shown("A sign that fails")
    shown("Three tokens, by hand")
    assert page.locator("#D").text_content() == f"{3 / 16 * math.log(2):.3f}"  # as worked out in notebook 00
    assert page.get_by_role("slider", name="probability of the tail").is_disabled()


def test_every_control_is_reached_by_tab(opened):
    page = opened()
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.name || document.activeElement.id || document.activeElement.textContent"
            )
        )
    controls = page.evaluate(
        """[...document.querySelectorAll("button, input, a")].map(
            control => control.name || control.id || control.textContent)"""
    )
    assert set(controls) <= reached


# --- Part 2 ---


def batch(seed=0, questions=8, group=8, answers=12):
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(questions, answers, generator=generator, dtype=torch.float64)
    tokens = torch.multinomial(logits.softmax(-1), group, replacement=True, generator=generator)
    rewards = (tokens < 3).double()
    return logits, tokens, rewards


def batch_of_the_library(logits, tokens, rewards):
    """One token a response: (N, 1)."""
    states = logits.repeat_interleave(tokens.shape[1], 0).unsqueeze(1)
    mask = torch.ones(tokens.numel(), 1, dtype=torch.bool)
    return states, grpo.token_batch(states, tokens.reshape(-1, 1), mask, rewards)


MASK = """([logits, tokens, rewards, rules]) => bandit.keep_mask(bandit.token_batch(logits, tokens, rewards), rules)"""


@pytest.mark.parametrize("rule", ["clip_b", "clip_v"])
def test_masks_are_the_librarys(opened, rule):
    page = opened()
    seen = set()
    for seed in range(3):
        arrays = batch(seed)
        _, of_library = batch_of_the_library(*arrays)
        for mu in (0.3, 0.5, 1.0, 1.5, 2.5):
            keep = getattr(clipping, rule)(of_library.statistics, of_library.advantages, of_library.mask, mu=mu)
            assert page.evaluate(MASK, [*(x.tolist() for x in arrays), {rule: mu}]) == keep.flatten().tolist()
            seen.add(int((~keep).sum()))
    assert len(seen) > 3


@pytest.mark.parametrize(
    ("file", "right", "wrong", "rule"),
    [
        ("theory.js", "value - centre), advantages", "value), advantages", "clip_b"),
        ("theory.js", "advantages[t] < 0 && value", "value", "clip_b"),
        ("theory.js", "value < -mu", "value > -mu", "clip_v"),
        ("bandit.js", "token) => token.d", "token) => token.s", "clip_v"),
    ],
)
def test_a_wrong_mask_is_seen(opened, tmp_path, file, right, wrong, rule):
    page = opened(with_a_change(tmp_path, file, right, wrong))
    with pytest.raises(AssertionError):
        test_masks_are_the_librarys(lambda: page, rule)


TRAIN = """
([start, batches, optimizer, rate, rules, bonus]) => {
  const optimize = bandit.optimizers[optimizer](rate);
  return batches.reduce((logits, [tokens, rewards]) => {
    const batch = bandit.token_batch(logits, tokens, rewards);
    const delta = optimize(bandit.gradient(logits, batch, bandit.keep_mask(batch, rules), bonus));
    return logits.map((row, q) => row.map((z, i) => z + delta[q][i]));
  }, start);
}
"""


@pytest.mark.parametrize(("optimizer", "rate"), [("SGD", 3.0), ("Adam", 0.05)])
def test_training_steps_are_the_librarys(opened, optimizer, rate):
    start, *_ = batch()
    batches = [batch(seed)[1:] for seed in range(4)]
    parameter = start.clone().requires_grad_()
    update = getattr(torch.optim, optimizer)([parameter], lr=rate)
    for tokens, rewards in batches:
        states, of_library = batch_of_the_library(parameter, tokens, rewards)
        keep = clipping.clip_b(of_library.statistics, of_library.advantages, of_library.mask, mu=0.5)
        zero = torch.zeros_like(of_library.advantages)
        statistics = token_statistics(states, tokens.reshape(-1, 1))
        update.zero_grad()
        terms = methods.Terms(keep.double(), zero, zero + 0.2)
        grpo.loss(statistics.log_prob, theory.entropy(states), of_library, terms).backward()
        update.step()
    lists = [[tokens.tolist(), rewards.tolist()] for tokens, rewards in batches]
    trained = opened().evaluate(TRAIN, [start.tolist(), lists, optimizer, rate, {"clip_b": 0.5}, 0.2])
    assert (parameter - start).abs().max() > 0.1
    torch.testing.assert_close(torch.tensor(trained, dtype=torch.float64), parameter.detach(), rtol=1e-9, atol=1e-9)


def test_the_controller_is_the_librarys(opened):
    entropies = [2.0 - 0.05 * i for i in range(40)] + [0.0 + 0.05 * i for i in range(40)]
    ours = TargetEntropy(target=1.0, vocabulary=12, effect=0.05, horizon=10.0, largest=1.0)
    expected = [ours.update(entropy) for entropy in entropies]
    assert 0.0 in expected and 1.0 in expected and any(0 < strength < 1 for strength in expected)
    shown = opened().evaluate(
        """entropies => {
          const controller = new theory.TargetEntropy({target: 1, effect: 0.05, horizon: 10, largest: 1});
          return entropies.map(entropy => controller.update(entropy));
        }""",
        entropies,
    )
    assert shown == pytest.approx(expected, rel=1e-12)


def run(page):
    page.get_by_role("button", name="Run 300 steps").click()
    page.wait_for_function(FINISHED)
    return page.evaluate("training.record().steps")


def test_runs_are_repeated_and_do_what_the_text_says(opened):
    page = opened()
    plain = run(page)
    assert run(page) == plain
    page.get_by_label("seed").fill("2")
    page.get_by_label("seed").press("Enter")
    assert run(page) != plain
    page.get_by_label("seed").fill("1")
    page.get_by_label("seed").press("Enter")
    page.get_by_role("checkbox", name="Clip_B").check()
    clipped = run(page)
    assert plain[-1]["entropy"] < 0.2 and plain[-1]["found"] < 1.5
    assert clipped[-1]["entropy"] > 2 * plain[-1]["entropy"] and clipped[-1]["found"] > plain[-1]["found"] + 0.3
    assert clipped[-1]["reward"] < plain[-1]["reward"]
    page.get_by_role("slider", name="μ of Clip_B").fill("2.5")
    assert sum(step.get("masked", 0) for step in run(page)) < 0.001 * 64 * 300
    page.get_by_role("checkbox", name="Clip_B").uncheck()
    page.get_by_role("checkbox", name="Entropy target").check()
    held = run(page)
    assert held[-1]["entropy"] == pytest.approx(1, abs=0.1) and held[-1]["found"] > plain[-1]["found"] + 0.5
    assert "entropy went from" in page.locator("#training-status").text_content()


def test_rules_are_switched_during_a_run(opened):
    page = opened(reduced_motion="no-preference")
    page.get_by_role("button", name="Run 300 steps").click()
    page.wait_for_function("training.record().steps.length > 5")
    page.get_by_role("checkbox", name="Entropy bonus").focus()
    page.keyboard.press("Space")
    page.wait_for_function("training.record().steps.at(-1).bonus === 0.1")
    page.get_by_role("button", name="Pause").click()
    steps = page.evaluate("training.record().steps.length")
    page.get_by_role("button", name="One step").click()
    assert page.evaluate("training.record().steps.length") == steps + 1
    assert page.locator("#entropy-chart path.run").count() == 2  # one stretch under each rule


# --- For everybody ---


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_contrast_and_names(opened, scheme, width):
    page = opened(color_scheme=scheme, viewport={"width": width, "height": 844})
    page.get_by_role("button", name="In the band").click()
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not complaints_of_axe(page)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "complaint"),
    [
        ("explorer.css", "--quiet: #565c66", "--quiet: #b0b4bc", "color-contrast"),
        ("index.html", '<label for="alpha">', "<label>", "label"),
        ("page.js", '"aria-label": name, ', "", "svg-img-alt"),
    ],
)
def test_bad_contrast_and_missing_names_are_seen(opened, tmp_path, file, right, wrong, complaint):
    assert complaint in complaints_of_axe(opened(with_a_change(tmp_path, file, right, wrong)))
