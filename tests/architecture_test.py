#!/usr/bin/env python3
"""The shape of the tree: which folders there are, who may include whom, who may name which library.

    architecture_test.py ROOT [OBJECTS]

OBJECTS is a file with one object file per line. Those built with instruction set flags must share no
weak function with any other: the linker keeps one copy, and a baseline caller could get AVX2 code.
"""
import pathlib
import re
import subprocess
import sys
import unittest

FOLDERS = "bench docker engine kernels net tests tools weights".split()
FILES = "CMakeLists.txt CMakePresets.json LICENSE README.md".split()

# folder -> folders it may include from
ARROWS = {
    "kernels": {"kernels"},
    "engine": {"kernels", "engine"},
    "net": {"kernels", "engine", "net"},
    "tools": {"kernels", "engine", "net", "tools"},
    "tests": {"kernels", "engine", "net", "tools", "tests"},
    "bench": {"kernels", "engine", "net", "bench"},
}

# third-party header -> folders that may name it, besides tests and bench
LIBRARIES = [
    (r"xsimd/|immintrin\.h|[a-z]*mmintrin\.h|arm_neon\.h", {"kernels"}),
    (r"cblas.*\.h|openblas.*", {"kernels"}),
    (r"(stb/)?stb_.*\.h", {"engine"}),
    (r"nlohmann/", {"engine", "tools"}),
    (r"sodium(\.h|/)", {"engine"}),
    (r"zmq.*\.h", {"net"}),
    (r"xxhash\.h|lz4.*\.h|zstd\.h", {"net"}),
    (r"CLI/|spdlog/|toml\+\+/|prometheus/|httplib\.h", {"tools"}),
    (r"doctest/|benchmark/", set()),
]

# Objects built with flags beyond the architecture's baseline; SSE2 and NEON are part of it.
FLAGGED = re.compile(r"kernels/tables/avx\w*\.cpp\.o(bj)?$")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# A type at the left margin, with its namespaces; not one that is only declared.
NAMESPACE = re.compile(r"^(?:(?:inline )?namespace ([\w:]*) ?\{|\}  // namespace)", re.MULTILINE)
TYPE = re.compile(r"^(?:class|struct|union|enum(?: class)?) (?:[A-Z_]+ )?(\w+)(?: final)?(?: : [^;{]+)? \{",
                  re.MULTILINE)

root = pathlib.Path()
objects = []


def sources():
    for folder in ARROWS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cpp", ".inc"):
                yield folder, path


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="ascii"))


def types(path):
    """Full names of the types that a header defines."""
    text, names, spaces = path.read_text(encoding="ascii"), set(), []
    found = [*NAMESPACE.finditer(text), *TYPE.finditer(text)]
    for match in sorted(found, key=lambda each: each.start()):
        if match.re is TYPE:
            names.add("::".join([*spaces, match[1]]))
        elif match[1] is not None:
            spaces.append(match[1])
        else:
            spaces.pop()
    return names


def weak_functions(path):
    listing = subprocess.run(["nm", "--defined-only", path], check=True, capture_output=True, text=True)
    fields = (line.split() for line in listing.stdout.splitlines())
    return {field[2] for field in fields if len(field) == 3 and field[1] in "Ww"}


class Architecture(unittest.TestCase):
    def test_top_level(self):
        entries = {path.name: path for path in root.iterdir()
                   if not path.name.startswith(".") and path.name != "build"}
        for name, path in entries.items():
            self.assertIn(name, FOLDERS if path.is_dir() else FILES, "not in the agreed top level")
        for name in FILES + list(ARROWS):
            self.assertIn(name, entries, "missing at the top level")

    def test_every_folder_has_sources(self):
        """Guards the other tests: they would pass on an empty tree."""
        found = {folder for folder, _ in sources()}
        self.assertEqual(found, set(ARROWS))

    def test_sources_are_ascii(self):
        for _, path in sources():
            self.assertTrue(path.read_bytes().isascii(), path)

    def test_includes_follow_the_arrows(self):
        for folder, path in sources():
            for bracket, header in includes(path):
                if bracket == "<":
                    self.assertFalse((root / header).exists(), f'{path}: <{header}> is ours, wanted ""')
                    continue
                self.assertTrue((root / header).is_file(), f'{path}: "{header}" is not below the root')
                self.assertIn(header.split("/")[0], ARROWS[folder], f"{path} includes {header}")

    def test_libraries_are_named_where_they_belong(self):
        for folder, path in sources():
            if folder in ("tests", "bench"):
                continue
            for _, header in includes(path):
                for pattern, allowed in LIBRARIES:
                    if re.match(pattern, header):
                        self.assertIn(folder, allowed, f"{path} includes {header}")

    def test_a_name_is_one_type(self):
        """Two of one name are undefined behaviour: the linker keeps one copy of each inline function."""
        where = {}
        for _, path in sources():
            for name in types(path) if path.suffix == ".h" else ():
                if not name.startswith("::"):  # those are each source file's own
                    self.assertIsNone(where.get(name), f"{name}: {path} defines it too")
                    where[name] = path
        self.assertGreater(len(where), 100, "no types at all: the patterns above are wrong")

    def test_flagged_objects_share_no_weak_functions(self):
        if not objects:
            self.skipTest("needs the object files of a release build")
        flagged = [path for path in objects if FLAGGED.search(path)]
        if not flagged:
            self.skipTest("this architecture has no flagged objects")
        symbols = {path: weak_functions(path) for path in objects}
        self.assertTrue(any(symbols.values()), "nm shows no weak function at all")
        for path in flagged:
            for other in objects:
                if other != path:
                    self.assertEqual(symbols[path] & symbols[other], set(), f"{path} and {other}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1]).resolve()
    if len(sys.argv) == 3:
        objects = pathlib.Path(sys.argv[2]).read_text().split()
        print(f"{len(objects)} objects")
    unittest.main(argv=sys.argv[:1])
