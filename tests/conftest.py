import pytest
from hypothesis import settings

from entropy_dynamics.notebook import make_reproducible

settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("reproducible")


@pytest.fixture(autouse=True, scope="session")
def reproducible():
    make_reproducible()
