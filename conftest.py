"""What every member's tests share: the real samples, and the count of the tests that used them."""

import os
import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("shared.testing")  # a failed fault case shows its values
# Which cases are slow, which faults were survived; the lines of the READMEs that tests execute.
pytest_plugins = ["shared.testing.fault_table", "shared.testing.readme_commands"]
ROOT = Path(__file__).parent
SLOW_S = 7200  # what a slow test may take
REAL_SAMPLES = Path(os.environ.get("REAL_SAMPLES", ROOT.parent / "shared" / "real"))


@pytest.fixture(scope="session")
def real_samples() -> Path:
    """Folder of small real samples (outside the repository: their licences forbid copying them into it)."""
    if not REAL_SAMPLES.is_dir():
        pytest.skip(f"no real samples at {REAL_SAMPLES} (set REAL_SAMPLES)")
    return REAL_SAMPLES


@pytest.fixture(autouse=True)
def same_threads():
    """A benchmark sets torch's threads for its process: no other test shall run with them."""
    torch = sys.modules.get("torch")
    threads = torch and torch.get_num_threads()
    yield
    if threads:
        torch.set_num_threads(threads)


def pytest_configure(config):
    """Tests are CPU tests unless asked otherwise; the fault cases fork, which a process that uses CUDA cannot."""
    if "gpu" not in config.getoption("-m"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config, items):
    """GPU tests run only when asked for (`-m gpu`) and slow ones likewise; real ones whenever the samples are there."""
    chosen = config.getoption("-m")
    for item in items:
        if "gpu" in item.keywords and "gpu" not in chosen:
            item.add_marker(pytest.mark.skip(reason="needs a GPU: make test-gpu"))
        if "slow" in item.keywords and "slow" not in chosen:
            item.add_marker(pytest.mark.skip(reason="slow: make test-faults"))
        elif "slow" in item.keywords:
            item.add_marker(pytest.mark.timeout(SLOW_S))


def _real(terminalreporter, outcome):
    return [r for r in terminalreporter.getreports(outcome) if "real" in getattr(r, "keywords", {})]


def pytest_terminal_summary(terminalreporter):
    ran = [r for r in _real(terminalreporter, "passed") + _real(terminalreporter, "failed") if r.when == "call"]
    skipped = _real(terminalreporter, "skipped")
    if ran or skipped:
        terminalreporter.write_line(f"real: {len(ran)} run, {len(skipped)} skipped ({REAL_SAMPLES})")


def pytest_sessionfinish(session, exitstatus):
    """Samples that lie there but are used by no test are a mistake in a full run, not a pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = _real(reporter, "skipped") if reporter else []
    passed = _real(reporter, "passed") if reporter else []
    if REAL_SAMPLES.is_dir() and skipped and not passed and exitstatus == 0:
        session.exitstatus = 1
