"""Checks of the image and its containers, each with containers of its own, a line for each.

    run.py [--quick | --list] [CHECK...]
"""

import argparse
import sys
import time

from checks import TABLE
from fleet import Failed


def main(words):
    parser = argparse.ArgumentParser(prog="docker_tests.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of the same")
    parser.add_argument("--list", action="store_true", help="say which checks there are")
    parser.add_argument("checks", metavar="CHECK", nargs="*")
    options = parser.parse_args(words)
    for word in options.checks:
        if word not in TABLE:
            print(f"docker_tests.sh: wanted one of {', '.join(TABLE)}, found '{word}'",
                  file=sys.stderr)
            return 64
    if options.list:
        for name, (title, _) in TABLE.items():
            print(f"{name:10}  {title}")
        return 0
    failed = passed = 0
    for name in options.checks or TABLE:
        title, function = TABLE[name]
        begin = time.monotonic()
        try:
            result, figures = "PASS", function(options.quick)
            passed += 1
        except Failed as failure:
            result, figures = "FAIL", str(failure)
            failed += 1
        took = time.monotonic() - begin
        print(f"{result}  {name}: {title} [{took:.0f} s]: {figures}", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
