"""Runs rows of the failure table, each with processes of its own, and prints a line for each.

    run.py [--quick | --all | --list | ROW...] [--except ROW]...
    run.py soak [--seconds N] [--seed N] [--devices N] [--out FILE]
"""

import argparse
import subprocess
import sys
import time

import rows_links  # noqa: F401 (each of these enters its rows)
import rows_machine  # noqa: F401
import rows_peers  # noqa: F401
import rows_strangers  # noqa: F401
import soak
from lab import Skip
from scene import Failed
from table import TABLE, Gap

# Seconds that they take, in all less than a minute, and nothing of the machine but processes.
QUICK = (1, 6, 9, 10, 17, 19, 20)


def run_row(number, quick):
    """One of PASS, FAIL, SKIP; prints its line."""
    title, function = TABLE[number]
    begin = time.monotonic()
    try:
        result, figures = "PASS", function(quick)
    except Gap as gap:
        result, figures = "FAIL", f"(known) {gap}"
    except Skip as skip:
        result, figures = "SKIP", str(skip)
    except Failed as failed:
        result, figures = "FAIL", str(failed)
    except (OSError, subprocess.SubprocessError) as error:
        result, figures = "FAIL", str(error)
    figures = " ".join(figures.split())
    took = time.monotonic() - begin
    print(f"{result}  {number:2}  {title} [{took:.0f} s]: {figures}", flush=True)
    return result


def main(words):
    if words[:1] == ["soak"]:
        return soak.main(words[1:])
    parser = argparse.ArgumentParser(prog="fault_tests.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the rows that take seconds")
    parser.add_argument("--all", action="store_true", help="all rows, at length")
    parser.add_argument("--list", action="store_true", help="say which rows there are")
    parser.add_argument("--except", metavar="ROW", dest="left_out", action="append", default=[])
    parser.add_argument("rows", metavar="ROW", nargs="*")
    options = parser.parse_args(words)
    for word in (*options.rows, *options.left_out):
        if word not in map(str, TABLE):
            print(f"fault_tests.sh: wanted rows from 1 to {max(TABLE)}, found '{word}'",
                  file=sys.stderr)
            return 64
    if options.list:
        for number, (title, _) in sorted(TABLE.items()):
            print(f"{number:2}  {title}{'  (quick)' if number in QUICK else ''}")
        return 0
    chosen = [int(word) for word in options.rows] or (QUICK if options.quick else sorted(TABLE))
    chosen = [number for number in chosen if str(number) not in options.left_out]
    results = [run_row(number, quick=not options.all) for number in chosen]
    print(", ".join(f"{results.count(kind)} {kind}" for kind in ("PASS", "FAIL", "SKIP")))
    return 1 if "FAIL" in results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
