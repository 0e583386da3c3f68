"""The quick run, `python -m pytest -m "not slow"`: what it leaves out, and how that is known.

A test function is slow if all its cases together took LONG when they were last measured (slow.tsv);
its first case stays in the quick run if that alone took less than SHORT. What starts a server or a
browser is slow, too. To measure again, all tests or some:

    python -m pytest -n 0 --write-slow
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest

SLOW = Path(__file__).with_name("slow.tsv")
LONG, SHORT = 0.8, 0.5  # seconds of processor time, fixtures and child processes included
SERVERS = {"browser", "server", "video_server"}


def pytest_addoption(parser):
    text = f"measure every test and write what is slow into {SLOW.name}; with -n 0"
    parser.addoption("--write-slow", action="store_true", help=text)


def pytest_configure(config):
    config.addinivalue_line("markers", 'slow: left out by -m "not slow", see tests/quick.py')
    if config.option.write_slow:
        if config.option.numprocesses:
            raise pytest.UsageError("--write-slow measures in one process: add -n 0.")
        config.pluginmanager.register(Stopwatch())


def function_of(item: pytest.Item) -> str:
    return item.nodeid.split("[")[0].removeprefix("tests/")


def slow_functions() -> dict[str, tuple[int, float, float]]:
    """{file::function: (cases, seconds of all, seconds of the first)}"""
    rows = [line.split("\t") for line in SLOW.read_text(encoding="utf-8").splitlines()[1:]]
    return {name: (int(cases), float(all_), float(first)) for name, cases, all_, first in rows}


def first_stays(cases: int, first: float) -> bool:
    return cases > 1 and first < SHORT


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which selects by the mark
def pytest_collection_modifyitems(items):
    known, met = slow_functions(), set()
    for item in items:
        name = function_of(item)
        cases, _, first = known.get(name, (0, 0.0, 0.0))
        later = name in met or not first_stays(cases, first)
        if SERVERS & set(item.fixturenames) or (cases and later):
            item.add_marker("slow")
        met.add(name)


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr != "not slow":
        return
    known = slow_functions().values()
    cases = sum(count - first_stays(count, first) for count, _, first in known)
    terminalreporter.write_line(
        f"Left out: {cases} cases of {len(known)} functions that take long (tests/{SLOW.name}), "
        "and what starts a server or a browser. The whole run: python -m pytest"
    )


class Stopwatch:
    """Measures every test; at the end what is known of those that ran is replaced."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = sum(os.times()[:4])
        result = yield
        self.seconds[function_of(item)].append(sum(os.times()[:4]) - before)
        return result

    def pytest_sessionfinish(self):
        known = slow_functions() if SLOW.exists() else {}
        for name, seconds in self.seconds.items():
            known.pop(name, None)
            if sum(seconds) >= LONG:
                known[name] = len(seconds), sum(seconds), seconds[0]
        rows = [
            f"{name}\t{cases}\t{all_:.2f}\t{first:.2f}"
            for name, (cases, all_, first) in sorted(known.items())
        ]
        text = "\n".join(["function\tcases\tseconds of all\tof the first", *rows]) + "\n"
        SLOW.write_text(text, encoding="utf-8")
