"""What was acknowledged to somebody who watched, and so what must be there afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.crash.small import GROUPS, Value

State = dict[str, Value | None]


class Copy:
    """A backup: what each document may be in it."""

    def __init__(self, state: dict[str, set[Value | None]]) -> None:
        self.state = state
        self.acknowledged = False

    def allow(self, effects: State) -> None:
        for name, value in effects.items():
            self.state.setdefault(name, {None}).add(value)


class Witness:
    """Reads the lines of `workload`. `certain` is what was acknowledged last; `maybe` what else may be there."""

    def __init__(self) -> None:
        self.certain: dict[str, Value] = {}
        self.maybe: dict[str, set[Value | None]] = {}
        self.copies: dict[str, Copy] = {}
        self.whole: list[tuple[State, State]] = []
        """(before, after) of acts that were cut short and are to be seen as a whole or not at all."""
        self.failed: list[dict[str, Any]] = []
        self.acknowledged = 0
        self.done: dict[str, list[tuple[int, float]]] = {}
        """Operations and seconds of acts that came to their end."""

    def read(self, lines: Iterable[dict[str, Any]]) -> list[str]:
        """Take in what one process said before it ended; the kinds of acts that were under way then."""
        open_acts: dict[int, list[Any]] = {}
        for line in lines:
            if "do" in line:
                self._begin(line["act"], open_acts.values())
                open_acts[line["do"]] = line["act"]
                continue
            if "failed" in line:
                self.failed.append(line)
                self._leave_open(open_acts.pop(line["failed"]))
                continue
            act = open_acts[line["part"] if "part" in line else line["did"]]
            if "part" in line:
                self._apply({name: (act[1][name], act[1][name]) for name in line["ids"]}, open_acts)
                act[1] = {name: version for name, version in act[1].items() if name not in line["ids"]}
            else:
                del open_acts[line["did"]]
                self._apply(self._effects(act), open_acts)
                self.done.setdefault(act[0], []).append((line["operations"], line["seconds"]))
                if act[0] == "backup":
                    self.copies[act[1]].acknowledged = True
        for act in open_acts.values():
            self._leave_open(act)
        return [act[0] for act in open_acts.values()]

    def problems(self, found: dict[str, Value]) -> list[str]:
        """What contradicts what was acknowledged."""
        told = []
        for name in sorted(self.certain.keys() | self.maybe.keys() | found.keys()):
            value, last = found.get(name), self.certain.get(name)
            allowed = {last} | self.maybe.get(name, set())
            if value in allowed:
                continue
            if value is None:
                told.append(f"lost: {name} was acknowledged as {last} and is gone")
            elif last is None:
                told.append(f"came back: {name} is there as {value} and was deleted")
            else:
                told.append(f"lost: {name} was acknowledged as {last} and is {value}")
        for before, after in self.whole:
            names = [name for name in after if self._is_open(name, after[name]) and before[name] != after[name]]
            there = {found.get(name) == after[name] for name in names}
            if len(there) == 2:
                told.append(f"half-written: of {after}, some is there")
        return told

    def adopt(self, found: dict[str, Value]) -> None:
        """What was found is what is certain from now on."""
        self.certain, self.maybe, self.whole = dict(found), {}, []

    def _begin(self, act: list[Any], others: Iterable[list[Any]]) -> None:
        if act[0] == "backup":
            names = self.certain.keys() | self.maybe.keys()
            self.copies[act[1]] = Copy({each: {self.certain.get(each)} | self.maybe.get(each, set()) for each in names})
            for other in others:  # they may have happened already, though nobody was told yet
                self.copies[act[1]].allow(self._effects(other))
        for copy in self.copies.values():
            if not copy.acknowledged:
                copy.allow(self._effects(act))

    def _effects(self, act: list[Any]) -> State:
        match act:
            case ["ingest" | "upsert", names]:
                return {name: (version, version) for name, version in names.items()}
            case ["relabel", names]:
                return {name: (version, label) for name, (version, label) in names.items()}
            case ["delete", names]:
                return dict.fromkeys(names)
            case ["purge", group]:
                names = self.certain.keys() | self.maybe.keys()
                return {name: None for name in names if int(name[1:]) % GROUPS == group}
            case ["drop"]:
                return dict.fromkeys(self.certain.keys() | self.maybe.keys())
        return {}

    def _apply(self, effects: State, open_acts: dict[int, list[Any]]) -> None:
        self.acknowledged += len(effects)
        for name, value in effects.items():
            self.maybe.pop(name, None)
            if value is None:
                self.certain.pop(name, None)
            else:
                self.certain[name] = value
        self._overtake(effects)

    def _leave_open(self, act: list[Any]) -> None:
        effects = self._effects(act)
        self._overtake(effects)
        if act[0] in ("upsert", "relabel", "delete", "drop"):
            # A name that an earlier act left open may be gone by that one.
            clear = {name: value for name, value in effects.items() if name not in self.maybe}
            self.whole.append(({name: self.certain.get(name) for name in clear}, clear))
        for name, value in effects.items():
            self.maybe.setdefault(name, set()).add(value)

    def _overtake(self, effects: State) -> None:
        """What a later act changed, or may have, says nothing of the acts before it."""
        for before, after in self.whole:
            for name in effects:
                before.pop(name, None)
                after.pop(name, None)

    def _is_open(self, name: str, value: Value | None) -> bool:
        return self.maybe.get(name) == {value}
