"""Shape: what one gang member needs of one node, and the classes of jobs that fit alike. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.job import Alternative, FirmId, Request
from scheduler.snapshot import MixShape, WaitingJob

WHOLE = 1000
DEFAULT_MIX = tuple(MixShape(weight=1, count=count) for count in (1, 2, 4, 8))  # of a zone that has seen no jobs yet


@dataclass(frozen=True, slots=True)
class MemberShape:
    """count devices of which each gives `share` thousandths, cpu milli-cores, memory bytes. firm: whose share, None if whole."""

    count: int
    share: int
    cpu: int
    memory: int
    firm: FirmId | None


@dataclass(frozen=True, slots=True)
class JobClass:
    """Jobs of one class fit in the same places, whoever owns them and whatever they may cost."""

    request: Request
    stacks: tuple[str, ...]
    images: tuple[str, ...]
    nodes: int
    least: int
    share: int
    cpu: int
    memory: int
    firm: FirmId | None

    def shape(self, alternative: Alternative) -> MemberShape:
        """What a member needs when this alternative is taken."""
        return MemberShape(alternative.count, self.share, self.cpu, self.memory, self.firm)


def class_of(job: WaitingJob) -> JobClass:
    """The job's class."""
    return JobClass(
        request=job.request,
        stacks=job.stacks,
        images=job.images,
        nodes=job.nodes,
        least=least_nodes(job),
        share=job.share_permille,
        cpu=job.cpu_milli,
        memory=job.memory_bytes,
        firm=job.firm if job.share_permille < WHOLE else None,
    )


def least_nodes(job: WaitingJob) -> int:
    """The smallest gang the job starts with."""
    return job.nodes if job.min_nodes is None else min(job.nodes, max(1, job.min_nodes))
