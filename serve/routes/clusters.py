"""`/v1/clusters`: unknown voices in groups, what there is to hear of each, and what a person says of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from cluster.db.spaces import active_space
from cluster.db.speakers.actions import Decision
from cluster.db.speakers.cards import Card, cluster_cards, count_unnamed, members_of
from cluster.db.speakers.means import rank_speakers, voice_at
from cluster.db.speakers.pointing import point_at_cluster
from cluster.db.speakers.splits import PARTS, parts_of_event, split_cluster
from cluster.errors import RushesError
from cluster.words import short_uri
from serve.access import Writer
from serve.decided import Decided, Person, decided, one_decision
from serve.errors import InvalidError, documented
from serve.fields import Asked, Id, Limit, Offset, PersonName, clip_url, media_url, next_offset
from serve.labels import Label, Labelled, Version, card_of
from serve.lookups import refused_as
from serve.routes.decisions import label_and_extract
from serve.service import Serving
from serve.submission import Selection, Submitted, submit_over

router = APIRouter(tags=["clusters"])
MOST_MEMBERS = 1000
SUGGESTIONS = 5


class Snippet(BaseModel):
    """Where to listen: the medoid, the voices nearest to it, and the farthest, which show whether it is one person."""

    sha256: str
    source: str
    local_speaker: int
    start_ms: int
    end_ms: int
    text: str
    similarity: float | None
    place: str | None
    clip_url: str


class Cluster(BaseModel):
    """A group of alike voices. Give `version` with a decision: it is refused when the cluster changed since."""

    cluster_id: int
    version: str
    members: int
    unnamed: int = Field(description="Voices of it that nobody knows.")
    assets: int
    segments: int
    speech_ms: int
    unnamed_ms: int
    names: list[str]
    cohesion: float = Field(description="Mean cosine of its voices to its centroid.")
    cohesion_p5: float
    snippets: list[Snippet]


class ClusterPage(BaseModel):
    """The clusters, the one with most speech of unknown people first, and how many unknown voices there are."""

    clusters: list[Cluster]
    unknown_in_clusters: int
    unknown_apart: int
    next_offset: int | None


class Member(BaseModel):
    """A voice of a cluster, and whose it is by what (human, cluster, knn)."""

    sha256: str
    source: str
    media_url: str
    local_speaker: int
    similarity: float
    segments: int
    speech_ms: int
    speaker_id: int | None
    speaker: str | None
    method: str | None


class Suggestion(Person):
    """A known person by the average cosine distance of so many voices to the cluster's middle."""

    distance: float
    voices: int


class ClusterDetail(Cluster):
    """One cluster with its voices, the most typical first, and whom they are nearest to."""

    voices: list[Member]
    suggestions: list[Suggestion]


class LabelCluster(Asked):
    """Who the people of a cluster are."""

    name: PersonName
    version: str | None = Version
    dry_run: bool = False


class SplitCluster(Asked):
    """Into how many parts a cluster is divided, by voice."""

    parts: int = Field(PARTS, ge=PARTS, le=100)
    version: str | None = Version
    dry_run: bool = False


class Part(BaseModel):
    """A part; a dry run has no numbers for them."""

    cluster_id: int | None
    voices: int


class Divided(Decided):
    """What followed, and the parts that were made."""

    parts: list[Part]


@router.get("/v1/clusters", responses=documented())
async def list_clusters(
    service: Serving,
    limit: Limit = 20,
    offset: Offset = 0,
    unnamed: Annotated[bool, Query(description="Only those with voices that nobody knows.")] = False,
) -> ClusterPage:
    """The clusters of the voice space in use, the largest win first: how large, how alike, where to listen."""

    def work(conn: Any) -> tuple[list[Card], tuple[int, int, int]]:
        space = active_space(conn, "voice")
        if space is None:
            return [], (0, 0, 0)
        cards = cluster_cards(conn, space, limit + 1, offset=offset, unnamed=unnamed)
        return cards, count_unnamed(conn, space)

    cards, (_, inside, apart) = await service.corpus.run(work)
    return ClusterPage(
        clusters=[Cluster(**_card(card)) for card in cards[:limit]],
        unknown_in_clusters=inside,
        unknown_apart=apart,
        next_offset=next_offset(offset, limit, offset + len(cards)),
    )


@router.post("/v1/clusters", status_code=202, response_model=Submitted, responses=documented(404))
async def begin_clustering(service: Serving, key: Writer, asked: Selection | None = None) -> JSONResponse:
    """Begin the job that groups the unknown voices; what people decided stays as it is."""
    return await submit_over(service, ["speakers", "cluster"], asked or Selection())


@router.get("/v1/clusters/{cluster_id}", responses=documented(404))
async def read_cluster(service: Serving, cluster_id: Id) -> ClusterDetail:
    """One cluster: its voices, where to listen, and which known people it is nearest to."""

    def work(conn: Any) -> ClusterDetail:
        card = card_of(conn, cluster_id)
        return ClusterDetail(
            **_card(card),
            voices=[_member(row) for row in members_of(conn, cluster_id, MOST_MEMBERS)],
            suggestions=_suggestions(conn, cluster_id),
        )

    return await service.corpus.run(work)


@router.post("/v1/clusters/{cluster_id}/label", responses=documented(404, 409))
async def label_cluster(service: Serving, key: Writer, cluster_id: Id, asked: LabelCluster) -> Labelled:
    """Say who the people of the cluster are; those who are alike enough take the name."""
    whole = Label(name=asked.name, cluster_id=cluster_id, version=asked.version, dry_run=asked.dry_run)
    return await label_and_extract(service, whole, key.name)


@router.post("/v1/clusters/{cluster_id}/split", responses=documented(404, 409))
async def divide_cluster(service: Serving, key: Writer, cluster_id: Id, asked: SplitCluster | None = None) -> Divided:
    """Divide a cluster that holds several people, by voice; no later clustering joins the parts again."""
    wanted = asked or SplitCluster()

    def work(conn: Any) -> Divided:
        made: list[tuple[int, int]] = []

        def action() -> Decision:
            done = split_cluster(conn, cluster_id, wanted.parts, key.name)
            made.extend(parts_of_event(conn, done.event_id))
            return done

        card_of(conn, cluster_id, wanted.version)
        with refused_as(InvalidError, "parts"):
            found = decided(conn, action, key.name, dry_run=wanted.dry_run)
        parts = [Part(cluster_id=None if wanted.dry_run else number, voices=count) for number, count in made]
        return Divided(**dict(found), parts=parts)

    return await service.corpus.write(lambda conn: one_decision(conn, lambda: work(conn)))


def _card(card: Card) -> dict[str, Any]:
    snippets = [
        Snippet(
            sha256=one.sha256,
            source=short_uri(one.asset),
            local_speaker=one.local_speaker,
            start_ms=one.start_ms,
            end_ms=one.end_ms,
            text=one.text,
            similarity=one.similarity,
            place=one.place,
            clip_url=clip_url(one.sha256, one.start_ms, one.end_ms),
        )
        for one in card.snippets
    ]
    return {name: getattr(card, name) for name in Cluster.model_fields} | {"snippets": snippets}


def _member(row: dict[str, Any]) -> Member:
    return Member.model_validate(row | {"source": short_uri(row["name"]), "media_url": media_url(row["sha256"])})


def _suggestions(conn: Any, cluster_id: int) -> list[Suggestion]:
    """The people nearest to the cluster's middle; none where it has no voice any more."""
    space = active_space(conn, "voice")
    assert space is not None
    try:
        middle = voice_at(conn, space, point_at_cluster(conn, cluster_id), f"cluster {cluster_id}")
    except RushesError:
        return []
    ranked = rank_speakers(conn, space, middle, SUGGESTIONS)
    return [
        Suggestion(speaker_id=one.speaker.speaker_id, name=one.speaker.name, distance=one.distance, voices=one.voices)
        for one in ranked
    ]
