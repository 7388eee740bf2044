import pytest

from companion.dynamics import proofs
from companion.mathematics.symbolic import all_zero

STATEMENTS = {
    proofs.two_arms: ((), 1),
    proofs.two_arms_standardised: ((), 1),
    proofs.masked: ((), 2),
    proofs.many_arms: ((3,), 3),
    proofs.fixed_point: ((2,), 6),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_simplifies_to_zero(statement):
    sizes, count = STATEMENTS[statement]
    differences = statement(*sizes)
    assert len(differences) == count
    assert all_zero(differences)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_with_other_advantages_none_does(statement, monkeypatch):
    monkeypatch.setattr(proofs, "_advantages", lambda a, values: [v * (1 + p) for p, v in zip(a.p, values)])
    assert not all_zero(statement(*STATEMENTS[statement][0]))
