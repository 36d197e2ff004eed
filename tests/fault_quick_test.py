#!/usr/bin/env python3
"""The quick rows of the failure table: tools/fault_tests.sh --quick without the build.

    fault_quick_test.py [--except ROW]...
"""

import pathlib
import sys

from scene import BINARY, CHAOS_PROXY, CPP_TESTS, require

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))
import run  # noqa: E402

if __name__ == "__main__":
    require(BINARY, CPP_TESTS, CHAOS_PROXY)
    sys.exit(run.main(["--quick", *sys.argv[1:]]))
