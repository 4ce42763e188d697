"""Runs one module of the interpreter's own tests and tells its parent about each test.

Executed as a script by the interpreter under test, which needs nothing but itself (and, for the
stack, cffi). One JSON object a line goes to the descriptor given: what is about to run, then how it
ended. The parent has the clock; it ends this process when a test takes too long.
"""

import faulthandler
import json
import os
import re
import sys
import traceback
import unittest
import warnings

# Of the resources that the tests may ask for: no huge files, no sound; the network only where the
# tests mean the loopback by it.
RESOURCES = ("cpu", "decimal", "extralargefile", "subprocess", "walltime", "xpickle")
MEAN_THE_LOOPBACK = ("test_socket", "test_socketserver", "test_timeout")
WORDS_MAX = 3000


class Reporter(unittest.TestResult):
    """Writes a line for the start and the end of every test."""

    def __init__(self, stream, count_sockets):
        super().__init__()
        self._lines = stream
        self._count_sockets = count_sockets
        self._outcome = ("pass", "")
        self._sockets = 0

    def _tell(self, **what):
        self._lines.write(json.dumps(what) + "\n")
        self._lines.flush()

    def startTest(self, test):
        super().startTest(test)
        self._outcome = ("pass", "")
        self._sockets = self._count_sockets()
        self._tell(event="start", test=test.id())

    def stopTest(self, test):
        super().stopTest(test)
        outcome, words = self._outcome
        made = self._count_sockets() - self._sockets
        self._tell(event="end", test=test.id(), outcome=outcome, words=words, sockets=made)

    def _note(self, test, outcome, words):
        words = words[-WORDS_MAX:]
        if isinstance(test, unittest.TestCase):
            self._outcome = (outcome, words)
        else:  # a fixture of a class or module
            self._tell(event="fixture", test=test.id(), outcome=outcome, words=words)

    def addError(self, test, err):
        self._note(test, "error", "".join(traceback.format_exception(*err)))

    def addFailure(self, test, err):
        self._note(test, "fail", "".join(traceback.format_exception(*err)))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            words = f"{subtest}\n" + "".join(traceback.format_exception(*err))
            self._note(test, "fail", words)

    def addSkip(self, test, reason):
        self._note(test, "skip", str(reason))

    def addExpectedFailure(self, test, err):
        self._outcome = ("pass", "")

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def stack_socket_counter():
    """A function that tells how many stack sockets this process has made; 0 on the kernel."""
    if os.environ.get("PIFUS_RUN") != "1":
        return lambda: 0
    from pifus import monkey

    if not monkey.is_patched():
        sys.exit("this interpreter was not patched: see above")
    from pifus._compat import _endpoint

    made = []
    original = _endpoint.Endpoint.__init__

    def counting(self, *args, **kwargs):
        made.append(None)
        original(self, *args, **kwargs)

    _endpoint.Endpoint.__init__ = counting
    return lambda: len(made)


def main():
    module, select, skip, fd, done = sys.argv[1:]
    faulthandler.enable()
    counter = stack_socket_counter()
    from test import support

    support.use_resources = dict.fromkeys(RESOURCES)
    if module in MEAN_THE_LOOPBACK:
        support.use_resources["network"] = None
    support.verbose = 0
    with open(done, encoding="utf-8") as file:
        ended = set(json.load(file))
    with os.fdopen(int(fd), "w", encoding="utf-8") as stream:
        loader = unittest.TestLoader()
        tests = list(flatten(loader.loadTestsFromName("test." + module)))
        if loader.errors:
            sys.exit("\n".join(loader.errors))
        wanted, unwanted = re.compile(select).search, re.compile(skip).search
        chosen = [
            test
            for test in tests
            if wanted(test.id()) and not unwanted(test.id()) and test.id() not in ended
        ]
        warnings.simplefilter("default")
        reporter = Reporter(stream, counter)
        unittest.TestSuite(chosen).run(reporter)
        reporter._tell(event="finished")
    # Threads that a failed test left behind must not keep the process.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
