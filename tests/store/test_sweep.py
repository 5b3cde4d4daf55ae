"""What a run over a source no longer met."""

from __future__ import annotations

from .conftest import OpenStore, write


def test_vanished_surplus_and_held(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    here = "file:///here"
    write(notes, {name: name for name in ("a", "b", "c", "deep/x", "deep/y", "deeper")}, root=here)
    write(notes, {"z": "of another root"}, root="file:///there")
    write(notes, {"hand": "made by hand"})
    with notes.sweep(here) as sweep:
        assert sweep.see(["a"], ["a"]) == set()
        assert sweep.see(["a", "new"], ["a", "b"]) == {"a"}
        sweep.hold(["c", "deep/"])
        gone = sweep.gone()
    # "b" was met as an origin, but gave no document of that id.
    assert gone.surplus == ("b",)
    assert gone.vanished == ("deeper",)


def test_runs_do_not_know_of_each_other(open_store: OpenStore) -> None:
    notes = open_store().collection("notes")
    write(notes, {"a": "a"}, root="r")
    with notes.sweep("r") as one:
        one.see(["a"], ["a"])
        with notes.sweep("r") as two:
            assert two.gone().vanished == ("a",)
        assert one.gone().vanished == ()


def test_nothing_stored_is_nothing_gone(open_store: OpenStore) -> None:
    with open_store().collection("empty").sweep("r") as sweep:
        assert sweep.gone().vanished == ()
