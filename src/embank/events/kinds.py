"""Everything that happens, one frozen class a kind, named in the past tense.

An event carries facts, in the units its fields name: names, counts, bytes, seconds. Never the text of a document or a
query. Events are cheap to make (a microsecond) and immutable, so that any thread may keep them.
"""

from __future__ import annotations

from embank.events.collections import (
    CollectionReduced,
    DocumentsCommitted,
    DocumentsDeleted,
    IngestProgressed,
    PcaFitted,
    ReembedAbandoned,
    ReembedFinished,
    ReembedProgressed,
    ReembedStarted,
    SearchAnswered,
    SourceItemSkipped,
    ViewCaughtUp,
)
from embank.events.event import (
    Event,
)
from embank.events.memory import (
    ActionTaken,
    MemoryRecovered,
    MemoryReleased,
    ReservationRefused,
    RungEntered,
    RungLeft,
)
from embank.events.models import (
    BatchRetried,
    ModelConversionStarted,
    ModelConverted,
    ModelFilesRemoved,
    ModelIdled,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelLoadStarted,
    ModelMoved,
    ModelPulled,
    ModelPullProgressed,
    ModelUnloaded,
    RemoteRequestEnded,
    TextsEmbedded,
    WorkerEnded,
    WorkerStarted,
)

__all__ = [
    "ActionTaken",
    "BatchRetried",
    "CollectionReduced",
    "DocumentsCommitted",
    "DocumentsDeleted",
    "Event",
    "IngestProgressed",
    "MemoryRecovered",
    "MemoryReleased",
    "ModelConversionStarted",
    "ModelConverted",
    "ModelFilesRemoved",
    "ModelIdled",
    "ModelLoadFailed",
    "ModelLoadProgressed",
    "ModelLoadStarted",
    "ModelLoaded",
    "ModelMoved",
    "ModelPullProgressed",
    "ModelPulled",
    "ModelUnloaded",
    "PcaFitted",
    "ReembedAbandoned",
    "ReembedFinished",
    "ReembedProgressed",
    "ReembedStarted",
    "RemoteRequestEnded",
    "ReservationRefused",
    "RungEntered",
    "RungLeft",
    "SearchAnswered",
    "SourceItemSkipped",
    "TextsEmbedded",
    "ViewCaughtUp",
    "WorkerEnded",
    "WorkerStarted",
]
