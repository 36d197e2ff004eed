"""How the programs of this folder read their options, and how they end when they cannot go on."""

import argparse


class Stop(Exception):
    """Ends the program with an exit code and one line."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option as a Stop; the description keeps its lines."""

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message):
        raise Stop(64, f"{message.removeprefix('argument ')} (--help lists the options)")
