#!/usr/bin/env python3
"""The quick rows of the failure table: tools/fault_tests.sh --quick without the build."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "faults"))
import lab  # noqa: E402
import run  # noqa: E402

if __name__ == "__main__":
    for program in (lab.PROGRAM, lab.CPP_TESTS, lab.CHAOS_PROXY):
        if not os.access(program, os.X_OK):
            sys.exit(f"fault_quick_test: wanted the program, found none at {program}")
    sys.exit(run.main(["--quick"]))
