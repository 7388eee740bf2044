import pytest

from companion.mathematics import flow_proofs
from companion.mathematics.symbolic import all_zero

STATEMENTS = {
    flow_proofs.two_arms: ((), 1),
    flow_proofs.two_arms_standardised: ((), 1),
    flow_proofs.masked: ((), 2),
    flow_proofs.many_arms: ((3,), 3),
    flow_proofs.fixed_point: ((2,), 6),
}


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_simplifies_to_zero(statement):
    sizes, count = STATEMENTS[statement]
    differences = statement(*sizes)
    assert len(differences) == count
    assert all_zero(differences)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_with_other_advantages_none_does(statement, monkeypatch):
    monkeypatch.setattr(flow_proofs, "_advantages", lambda a, values: [v * (1 + p) for p, v in zip(a.p, values)])
    assert not all_zero(statement(*STATEMENTS[statement][0]))
