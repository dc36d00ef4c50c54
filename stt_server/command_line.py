"""What the command lines have in common: a usage error is one line, not all of the usage."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn, cast


class BriefParser(argparse.ArgumentParser):
    """Says what is wrong, what was perhaps meant, and where all flags are told."""

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] - of its two forms
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = next((text for text in unknown if text.startswith("-")), None)
            if flag is None:
                self.error(f"unexpected argument {unknown[0]!r}")
            self.error(self._no_such(flag.partition("=")[0]))  # its value may be a secret
        return known

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _no_such(self, flag: str) -> str:
        meant = get_close_matches(flag.lower().replace("_", "-"), self._flags(), n=1)
        return f"no such flag: {flag}" + (f"; did you mean {meant[0]}?" if meant else "")

    def _flags(self) -> list[str]:
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        for action in self._actions:
            choices: object = action.choices  # pyright: ignore[reportUnknownMemberType]
            # A subcommand leaves the flags that it does not know to its parent.
            if isinstance(choices, dict):
                for parser in cast("dict[str, BriefParser]", choices).values():
                    flags += parser._flags()
        return flags
