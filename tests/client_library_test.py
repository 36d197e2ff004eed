#!/usr/bin/env python3
"""libofframp_client as others get it: installed, found by pkg-config and CMake, used by the programs
of tools/examples against real nodes with keys. Answers are those of `offramp run`, bit for bit."""

import csv
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from scene import BINARY, BUILD, MODEL, SOURCE, QuietNode, make_keys, require

EXAMPLES = SOURCE / "tools" / "examples"
PICTURES = sorted((SOURCE / "tools" / "samples").glob("*.png"))[:6]
# Where the library is for another kind of machine, so are the programs.
TOOLCHAIN = os.environ.get("OFFRAMP_TOOLCHAIN")
CC = os.environ.get("OFFRAMP_CC", "cc").split()
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1"]
# What the header declares, and of the exception what catching it needs.
SHOWN = r"offramp_\w+|OFFRAMP_0|offramp::Client(Error)?::.*|(vtable|typeinfo|typeinfo name) for offramp::ClientError"


def run(*command, **more):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Library(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BUILD, "--component", "client", "--prefix", cls.prefix)
        cls.library = next(cls.prefix.rglob("libofframp_client.so"))
        cls.c, cls.cpp = cls.by_pkg_config(), cls.by_cmake()
        make_keys(cls.folder)

    @classmethod
    def by_pkg_config(cls):
        found = os.environ | {"PKG_CONFIG_PATH": str(cls.library.parent / "pkgconfig")}
        flags = run("pkg-config", "--cflags", "--libs", "offramp-client", env=found).split()
        program = cls.folder / "classify_c"
        rpath = f"-Wl,-rpath,{cls.library.parent}"
        run(*CC, "-std=c99", *STRICT, EXAMPLES / "classify.c", *flags, rpath, "-o", program)
        return program

    @classmethod
    def by_cmake(cls):
        build = cls.folder / "build"
        where = [f"-DCMAKE_PREFIX_PATH={cls.prefix}"]
        if TOOLCHAIN:
            where = [f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}", f"-DCMAKE_FIND_ROOT_PATH={cls.prefix}"]
        flags = f"-DCMAKE_CXX_FLAGS={' '.join(STRICT)}"
        run("cmake", "-G", "Ninja", "-S", EXAMPLES, "-B", build, *where, flags)
        run("cmake", "--build", build)
        return build / "classify"

    def test_what_is_installed(self):
        names = {path.name for path in self.prefix.rglob("*") if path.is_file()}
        # One with the name of the kind of build.
        names -= {name for name in names if re.fullmatch(r"offramp-config-(?!version)\w+.cmake", name)}
        library = "libofframp_client.so"
        wanted = {"client.h", "client_c.h", library, library + ".0", library + ".0.1.0"}
        wanted |= {"offramp-client.pc", "offramp-config.cmake", "offramp-config-version.cmake"}
        self.assertEqual(names, wanted)

    def test_nothing_else_is_exported(self):
        dynamic = run("readelf", "-dW", self.library)
        self.assertIn("soname: [libofframp_client.so.0]", dynamic)
        symbols = run("nm", "-DC", "--defined-only", self.library)
        names = [line.split(" ", 2)[2].replace("@@OFFRAMP_0", "") for line in symbols.splitlines()]
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertRegex(name, f"^({SHOWN})$")

    def answers(self, program, edge, *pictures):
        keys = self.folder / "keys" / "device"
        out = run(program, MODEL, edge.address, keys, *pictures)
        return sorted(line.split() for line in out.splitlines())

    def test_answers_are_those_of_run(self):
        # With the model's thresholds all three tiers answer some.
        with QuietNode(self.folder, "cloud", "0.24") as cloud:
            with QuietNode(self.folder, "edge", "0.24", cloud) as edge:
                decisions = self.folder / "decisions.csv"
                command = [BINARY, "run", *PICTURES, "--model", MODEL, "--next", edge.address]
                command += ["--keys", self.folder / "keys" / "device", "--decisions", decisions]
                run(*command, "--deadline", "60s", "--wait", "60s")
                rows = list(csv.DictReader(decisions.read_text().splitlines()))
                for program in (self.c, self.cpp):
                    found = self.answers(program, edge, *PICTURES)
                    self.assertEqual(len(found), len(rows))
                    tiers = set()
                    for picture, row, answer in zip(map(str, PICTURES), rows, found):
                        self.assertEqual(answer[:2], [picture, row["label"]])
                        self.assertEqual(float.fromhex(answer[2]), float.fromhex(row["probability"]))
                        self.assertEqual(answer[5], "ok")
                        tiers.add(answer[4])
                    self.assertGreater(len(tiers), 1)

    def test_what_goes_wrong_is_said(self):
        nowhere = subprocess.run([self.c, "/nowhere", "a:1", "b", "c"], capture_output=True, text=True)
        self.assertEqual(nowhere.returncode, 66)
        self.assertRegex(nowhere.stderr, r"^classify: /nowhere: wanted .*, found .*\n$")
        command = [self.cpp, MODEL, "127.0.0.1:1", self.folder / "keys" / "device", SOURCE / "README.md"]
        text = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(text.returncode, 65)
        self.assertRegex(text.stderr, r"^classify: picture: wanted .*, found .*\n$")


if __name__ == "__main__":
    require(BINARY)
    for tool in ("cc", "c++", "cmake", "pkg-config"):
        if shutil.which(tool) is None:
            print(f"client_library_test: skipped: no {tool}")
            sys.exit(77)
    unittest.main()
