"""What may differ between a translated call or answer and the native one, each with its reason.

The lists (`declared`) are data and are held in both directions: what differs and is not listed fails, and so does what is
listed for a pair and does not differ any more. A path has dots (`choices.0.message.content`); `*` stands for anything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from tests.golden.names import ARMS, CLIENTS, SCENARIOS, Format

Mode = Literal["whole", "streamed"]
Case = tuple[str, Mode]  # scenario and mode


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. With `scenarios` named, it occurs in each of them; else in one at least."""

    path: str
    reason: str
    clients: tuple[Format, ...] = CLIENTS
    arms: tuple[Format, ...] = ARMS
    scenarios: tuple[str, ...] = SCENARIOS
    modes: tuple[Mode, ...] = ("whole", "streamed")

    def explains(self, case: Case, path: str) -> bool:
        return case[0] in self.scenarios and case[1] in self.modes and fnmatchcase(path, self.path)

    def of_pair(self, client: Format, arm: Format) -> bool:
        return client in self.clients and arm in self.arms


def held(
    differences: Iterable[Difference], client: Format, arm: Format, found: Mapping[Case, Mapping[str, str]]
) -> list[str]:
    """What is wrong with the list for this pair, as sentences: differences that it lacks, and those that are gone."""
    listed = [one for one in differences if one.of_pair(client, arm)]
    seen: dict[Difference, set[str]] = {one: set() for one in listed}
    wrong = []
    for case, told in found.items():
        for path, what in told.items():
            dotted = path.replace("[", ".").replace("]", "")
            reasons = [one for one in listed if one.explains(case, dotted)]
            for one in reasons:
                seen[one].add(case[0])
            if not reasons:
                wrong.append(f"{case[0]}, {case[1]}: {dotted} is {what}")
    for one, scenarios in seen.items():
        gone = set(one.scenarios) - scenarios if one.scenarios != SCENARIOS else set() if scenarios else {"any"}
        wrong += [f"listed, and not there any more: {one.path} in {name}" for name in sorted(gone)]
    return wrong
