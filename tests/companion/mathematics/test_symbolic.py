import pytest
import sympy

from companion.mathematics import symbolic

COUNTS = {
    symbolic.lemma_3_1: lambda size: size**2,
    symbolic.theorem_3_2: lambda size: size,
    symbolic.theorem_3_3: lambda size: size,
    symbolic.corollary_3_4: lambda size: 1,
    symbolic.covariance_form: lambda size: 2,
    symbolic.hessian: lambda size: size**2,
    symbolic.second_order: lambda size: 1,
    symbolic.grpo_second_order: lambda size: size,
    symbolic.exact_change: lambda size: 1,
}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("statement", COUNTS)
def test_every_statement_simplifies_to_zero(statement, size):
    differences = statement(size)
    assert len(differences) == COUNTS[statement](size)
    assert symbolic.all_zero(differences)


def test_an_empty_list_proves_nothing():
    with pytest.raises(ValueError, match="nothing to prove"):
        symbolic.all_zero([])


@pytest.mark.parametrize(
    "statement",
    [
        *(symbolic.theorem_3_2, symbolic.theorem_3_3, symbolic.covariance_form, symbolic.hessian),
        *(symbolic.second_order, symbolic.grpo_second_order, symbolic.exact_change),
    ],
)
def test_a_wrong_statement_does_not(statement, monkeypatch):
    original = symbolic.SymbolicPolicy.__init__

    def without_factor_p(self, size):
        original(self, size)
        self.s = [self.entropy + log_p for log_p in self.log_p]

    monkeypatch.setattr(symbolic.SymbolicPolicy, "__init__", without_factor_p)
    assert not symbolic.all_zero(statement(2))


def test_symbolic_policy_is_softmax():
    policy = symbolic.SymbolicPolicy(3)
    values = dict(zip(policy.w, (2, 1, 1)))
    assert [p.subs(values) for p in policy.p] == [sympy.Rational(1, 2), sympy.Rational(1, 4), sympy.Rational(1, 4)]
    assert float(policy.entropy.subs(values)) == pytest.approx(1.0397207708)
    assert float(policy.baseline.subs(values)) == pytest.approx(0.0433216988)


def test_empty_policy_is_refused():
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        symbolic.SymbolicPolicy(0)
