"""nbval compares re-run notebooks with their committed outputs; pictures and rich reprs are not compared."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml", "application/pdf")
