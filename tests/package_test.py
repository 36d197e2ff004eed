#!/usr/bin/env python3
"""Debian's packages as cpack makes them of this build: what is in them, what they need, what
lintian, man and systemd say. Installing them in a bare Debian is package_chroot.py's."""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from client_library_test import run
from scene import BINARY, BUILD, MODEL, SOURCE, make_keys, require

VERSION = re.search(r"project\(offramp VERSION (\S+)", (SOURCE / "CMakeLists.txt").read_text())[1]
FILES = SOURCE / "tools" / "package"
UNIT = "lib/systemd/system/offramp-node@.service"
# In tenths; what keeps it above 1 is a service that is there to be reached over the network.
EXPOSURE = 15
# Debian's own upload would close a bug; the calls of ldconfig, beside the trigger, are CPack's.
EXPECTED_OF_LINTIAN = {"initial-upload-closes-no-bugs", "maintscript-calls-ldconfig"}
TITLES = ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXAMPLES", "ENVIRONMENT", "FILES")
TITLES += ("EXIT STATUS",)
PACKAGES = ("offramp", "libofframp-client0", "libofframp-client-dev")


def make_packages(folder):
    """By name, in `folder`."""
    run("cpack", "-G", "DEB", "--config", BUILD / "CPackConfig.cmake", "-B", folder)
    return {path.name.split("_")[0]: path for path in folder.glob("*.deb")}


def documents(package):
    folder = f"usr/share/doc/{package}/"
    return {folder + "copyright", folder + "changelog.Debian.gz"}


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.debs = make_packages(cls.folder)
        cls.roots, cls.listings = {}, {}
        (cls.folder / "roots").mkdir()
        for name, deb in cls.debs.items():
            root = cls.roots[name] = cls.folder / "roots" / name
            run("dpkg-deb", "-R", deb, root)
            cls.listings[name] = run("dpkg-deb", "-c", deb).splitlines()
        machine = run("dpkg-architecture", "-qDEB_HOST_MULTIARCH").strip()
        cls.libraries = f"usr/lib/{machine}/"

    def files(self, package):
        names = (re.split(r" \./| -> ", line)[1] for line in self.listings[package])
        return {name for name in names if not name.endswith("/") and name}

    def field(self, package, name):
        return run("dpkg-deb", "-f", self.debs[package], name).strip()

    def depends(self, package):
        return set(re.findall(r"[a-z0-9.+-]+(?= \(|,|$)", self.field(package, "Depends")))

    def test_names_and_versions(self):
        self.assertEqual(set(self.debs), set(PACKAGES))
        machine = run("dpkg", "--print-architecture").strip()
        for name, deb in self.debs.items():
            self.assertEqual(deb.name, f"{name}_{VERSION}-1_{machine}.deb")
            self.assertEqual(self.field(name, "Version"), f"{VERSION}-1")

    def test_the_program(self):
        samples = (SOURCE / "tools/samples").iterdir()
        wanted = {f"usr/share/offramp/samples/{path.name}" for path in samples}
        wanted |= {"usr/bin/offramp", "usr/share/offramp/resnet20b.safetensors", UNIT}
        wanted |= {"etc/offramp/edge.toml", "etc/offramp/cloud.toml"}
        wanted |= {"usr/share/man/man1/offramp.1.gz"}
        wanted |= {"usr/share/bash-completion/completions/offramp"}
        self.assertEqual(self.files("offramp"), wanted | documents("offramp"))
        control = self.roots["offramp"] / "DEBIAN"
        conffiles = {line[1:] for line in (control / "conffiles").read_text().splitlines()}
        self.assertEqual(conffiles, {name for name in wanted if name.startswith("etc/")})
        depends = self.depends("offramp")
        self.assertLessEqual({"adduser", "libc6", "libzmq5", "libsodium23"}, depends)
        self.assertFalse({name for name in depends if "offramp" in name or "-dev" in name})

    def test_the_library(self):
        library = self.libraries + "libofframp_client.so.0"
        wanted = {library, f"{self.libraries}libofframp_client.so.{VERSION}"}
        self.assertEqual(self.files("libofframp-client0"), wanted | documents("libofframp-client0"))
        self.assertLessEqual({"libc6", "libzmq5"}, self.depends("libofframp-client0"))
        control = self.roots["libofframp-client0"] / "DEBIAN"
        shlibs = f"libofframp_client 0 libofframp-client0 (>= {VERSION}-1)\n"
        self.assertEqual((control / "shlibs").read_text(), shlibs)
        self.assertEqual((control / "triggers").read_text(), "activate-noawait ldconfig\n")

    def test_what_is_for_development(self):
        name = "libofframp-client-dev"
        cmake, examples = self.libraries + "cmake/offramp/", f"usr/share/doc/{name}/examples/"
        found = self.files(name)
        # One with the name of the kind of build.
        kind = re.compile(r"/offramp-config-(?!version)\w+\.cmake$")
        found -= {each for each in found if kind.search(each)}
        wanted = {cmake + "offramp-config.cmake", cmake + "offramp-config-version.cmake"}
        wanted |= {"usr/include/offramp/client.h", "usr/include/offramp/client_c.h"}
        names = ("libofframp_client.so", "pkgconfig/offramp-client.pc")
        wanted |= {self.libraries + each for each in names}
        wanted |= {examples + each for each in ("classify.c", "classify.cpp", "CMakeLists.txt")}
        self.assertEqual(found, wanted | documents(name))
        self.assertEqual(self.field(name, "Depends"), f"libofframp-client0 (= {VERSION}-1)")
        root = self.roots[name]
        for path in (root / cmake).iterdir():
            self.assertNotRegex(path.read_text(), r"offramp_(net|engine|kernels|options)")
        module = root / self.libraries / "pkgconfig" / "offramp-client.pc"
        where = ["prefix=/usr", "libdir=${prefix}/" + self.libraries[4:-1]]
        self.assertEqual(module.read_text().splitlines()[:2], where)

    def test_nothing_of_the_machine_it_was_built_on(self):
        for name, root in self.roots.items():
            for path in root.rglob("*"):
                if path.is_symlink() or not path.is_file():
                    continue
                content = path.read_bytes()
                if path.suffix == ".gz":
                    content = gzip.decompress(content)
                for place in (str(BUILD), str(self.folder)):
                    self.assertNotIn(place.encode(), content, path)
                if content.startswith(b"\x7fELF"):
                    self.assertNotRegex(run("readelf", "-dW", path), "RPATH|RUNPATH")
                    self.assertNotIn(".symtab", run("readelf", "-SW", path))
            for line in self.listings[name]:
                executable = re.search(r"\./usr/bin/", line) and not line.endswith("/")
                mode = "-rwxr-xr-x" if executable else "[dl-]rw[x-]r[w-][x-]r[w-][x-]"
                self.assertRegex(line, f"^{mode} root/root ")
            run("md5sum", "--quiet", "-c", "DEBIAN/md5sums", cwd=root)

    def test_configurations_are_accepted(self):
        keys = make_keys(self.folder)
        for tier in ("edge", "cloud"):
            file = self.roots["offramp"] / "etc" / "offramp" / f"{tier}.toml"
            env = os.environ | {"OFFRAMP_NODE_KEYS": str(keys / tier)}
            self.assertIn(f"{tier}.toml: ok", run(BINARY, "config", "check", file, env=env))
            # What is commented out is an option too, with the value that it has anyway.
            plain = run(BINARY, "config", "check", file, env=env)
            full = self.folder / f"{tier}.toml"
            full.write_text(re.sub(r"^# (?=[a-z-]+ = )", "", file.read_text(), flags=re.MULTILINE))
            model = "/usr/share/offramp/resnet20b.safetensors"
            full.write_text(full.read_text().replace(model, str(MODEL)))
            values = [re.findall(r"^(\S+) +(\S+)", text, re.MULTILINE)
                      for text in (plain, run(BINARY, "config", "check", full, env=env))]
            for key, value in values[0]:
                if key not in ("model", "thresholds") and not key.endswith(":"):
                    self.assertIn((key, value), values[1], full)

    def test_the_unit(self):
        unit = self.roots["offramp"] / UNIT
        here = self.folder / "offramp-node@.service"
        here.write_text(unit.read_text().replace("/usr/bin/offramp", str(BINARY)))
        verify = ["systemd-analyze", "verify", "--man=no", here]
        done = subprocess.run(verify, capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if "offramp" in line]
        self.assertEqual((done.returncode, said), (0, []))
        quiet = ["--no-pager", "--offline=yes"]
        run("systemd-analyze", "security", *quiet, f"--threshold={EXPOSURE}", here)
        # Longer than a node drains, and each of these ends before it.
        settings = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
        self.assertGreater(int(settings["TimeoutStopSec"]), 15)
        self.assertEqual(settings["RestartPreventExitStatus"], "64 65 66 73 78")

    def test_the_manual(self):
        packed = self.roots["offramp"] / "usr/share/man/man1/offramp.1.gz"
        page = self.folder / "offramp.1"
        page.write_bytes(gzip.decompress(packed.read_bytes()))
        env = os.environ | {"MANWIDTH": "500", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
        command = ["man", "--warnings", "-l", page]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        if shutil.which("mandoc"):
            command = ["mandoc", "-Tlint", "-Wwarning", page]
            lint = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual((lint.returncode, lint.stdout), (0, ""))
        text = re.sub(r".\x08", "", done.stdout)
        for title in TITLES:
            self.assertRegex(text, f"(?m)^{title}$")
        for words in self.commands():
            help_text = run(BINARY, *words, "--help")
            options = set(re.findall(r"^  (?:-\w,)?(--[\w-]+)", help_text, re.MULTILINE))
            options.discard("--help")
            name = "offramp " + " ".join(words)
            section = re.search(rf"(?ms)^   {name}$(.*?)(?=^   offramp |^[A-Z])", text)
            self.assertIsNotNone(section, name)
            self.assertRegex(text, rf"(?m)^       {name} \[OPTIONS\]")
            for option in options:
                self.assertRegex(section[1], rf"(?m)^ +(-\w, )?{option}\b")

    @staticmethod
    def commands():
        listed = run(BINARY, "--help").partition("Subcommands:\n")[2].partition("\n\n")[0]
        names = [line.split()[0] for line in listed.splitlines()]
        assert len(names) > 10 and "config" in names, names
        return [[name] for name in names if name != "config"] + [["config", "check"]]

    def complete(self, *words):
        script = self.roots["offramp"] / "usr/share/bash-completion/completions/offramp"
        line = " ".join(f"'{word}'" for word in ("offramp", *words))
        return run("bash", "-uc", f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
                   'COMPREPLY=(); _offramp; printf "%s\\n" "${COMPREPLY[@]}"').split()

    def test_completion(self):
        self.assertLessEqual({words[0] for words in self.commands()}, set(self.complete("")))
        self.assertEqual(self.complete("ke"), ["keygen"])
        self.assertEqual(self.complete("node", "--tie"), ["--tier"])
        self.assertEqual(self.complete("node", "--tier", ""), ["edge", "cloud"])
        port_file = self.complete("node", "--tier", "cloud", "--metrics-")
        self.assertEqual(port_file, ["--metrics-port-file"])
        self.assertEqual(self.complete("config", "check", "--com"), ["--command"])
        self.assertEqual(self.complete("classify", "cat"), [])

    @unittest.skipUnless(shutil.which("lintian"), "no lintian")
    def test_lintian(self):
        command = ["lintian", "--allow-root", *self.debs.values()]
        done = subprocess.run(command, capture_output=True, text=True)
        tags = set(re.findall(r"^[EW]: [^:]+: (\S+)", done.stdout, re.MULTILINE))
        unexpected = tags - EXPECTED_OF_LINTIAN
        self.assertEqual((done.returncode, unexpected), (0, set()), done.stdout + done.stderr)


if __name__ == "__main__":
    require(BINARY)
    for tool in ("bash", "cpack", "dpkg-shlibdeps", "man", "systemd-analyze"):
        if shutil.which(tool) is None:
            print(f"package_test: skipped: no {tool}")
            sys.exit(77)
    if not (BUILD / "CPackConfig.cmake").is_file():
        print("package_test: skipped: this build makes no packages")
        sys.exit(77)
    unittest.main()
