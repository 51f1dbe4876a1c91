"""Quota: how many devices a queue may take, and what queues of one cohort lend each other. Pure.

With n the nominal, u the devices in use, l the lending limit and b = max(0, u - n) what a queue has borrowed:

    lent by o at most   = min(n_o - u_o, l_o), never below 0
    headroom of q       = (n_q - u_q) + sum over o != q of lent by o - sum over o != q of b_o

no less than 0 and no more than n_q + borrowing limit - u_q. Whoever only takes within its headroom keeps two promises: a
cohort never uses more than the sum of its nominals, and n_q - l_q devices are there for q at any time. Source: the cohorts
of Kueue (ClusterQueue: nominalQuota, borrowingLimit, lendingLimit), for one kind of unit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate

from scheduler.snapshot import QueueQuota


class QuotaError(ValueError):
    """A quota that cannot hold: the queue, the field and its value."""


class Quotas:
    """The quotas of a zone. Devices used are given as a mapping by queue; a queue not in it uses none.

    A queue that is not listed, or whose nominal is None, has no limit; it neither lends nor borrows.
    """

    def __init__(self, queues: Iterable[QueueQuota]) -> None:
        """Raises QuotaError for a name given twice and for a negative number."""
        self._queues: dict[str, QueueQuota] = {}
        self._cohorts: dict[str, list[QueueQuota]] = {}
        for quota in queues:
            if quota.name in self._queues:
                raise QuotaError(f"queues/{quota.name}: given twice; give each queue once")
            for field in ("nominal_devices", "borrowing_limit", "lending_limit"):
                value = getattr(quota, field)
                if value is not None and value < 0:
                    raise QuotaError(f"queues/{quota.name}/{field}: {value} is below 0; nearest: 0")
            self._queues[quota.name] = quota
            if quota.cohort is not None and quota.nominal_devices is not None:
                self._cohorts.setdefault(quota.cohort, []).append(quota)

    def headroom(self, queue: str, used: Mapping[str, int]) -> int | None:
        """Devices the queue may still take now, without anybody giving any back; None = no limit."""
        quota, nominal = self._limited(queue)
        if quota is None:
            return None
        own = nominal - used.get(queue, 0)
        free = own + sum(_lent(o, used) - _borrowed(o, used) for o in self._others(quota))
        if quota.borrowing_limit is not None:
            free = min(free, own + quota.borrowing_limit)
        return max(0, free)

    def most(self, queue: str) -> int | None:
        """Devices the queue could hold if its cohort used none; None = no limit. A job above it can never start there."""
        quota, nominal = self._limited(queue)
        if quota is None:
            return None
        lent = sum(_lent(o, {}) for o in self._others(quota))
        return nominal + (lent if quota.borrowing_limit is None else min(lent, quota.borrowing_limit))

    def borrowed(self, queue: str, used: Mapping[str, int]) -> int:
        """Devices the queue holds above its nominal; 0 for one without a limit."""
        quota = self._queues.get(queue)
        return _borrowed(quota, used) if quota else 0

    def reclaimable(self, queue: str, used: Mapping[str, int]) -> int:
        """Devices of the queue's own nominal that it cannot take now because others hold them: what it may reclaim."""
        quota, nominal = self._limited(queue)
        if quota is None:
            return 0
        return max(0, nominal - used.get(queue, 0) - (self.headroom(queue, used) or 0))

    def lenders(self, queue: str, used: Mapping[str, int]) -> tuple[str, ...]:
        """Queues, by name, whose own nominal is short while this one borrows: each may reclaim from it now."""
        quota = self._queues.get(queue)
        if quota is None or not _borrowed(quota, used):
            return ()
        return tuple(sorted(o.name for o in self._others(quota) if self.reclaimable(o.name, used)))

    def borrowers(self, queue: str, used: Mapping[str, int]) -> tuple[str, ...]:
        """Queues, by name, that hold devices of the cohort above their nominal while this one's own is short."""
        quota = self._queues.get(queue)
        if quota is None or not self.reclaimable(queue, used):
            return ()
        return tuple(sorted(o.name for o in self._others(quota) if _borrowed(o, used)))

    def standing(self, used: Mapping[str, int]) -> Standing:
        """The same headrooms while devices are taken one job after another."""
        return Standing(self, used)

    def cohort(self, queue: str) -> tuple[QueueQuota, ...]:
        """The queues of its cohort that have a nominal, itself among them; () for one without a cohort or a limit."""
        quota = self._queues.get(queue)
        if quota is None or quota.cohort is None or quota.nominal_devices is None:
            return ()
        return tuple(self._cohorts[quota.cohort])

    def quota(self, queue: str) -> QueueQuota | None:
        """The quota of that name, if it is listed."""
        return self._queues.get(queue)

    def _limited(self, queue: str) -> tuple[QueueQuota | None, int]:
        quota = self._queues.get(queue)
        if quota is None or quota.nominal_devices is None:
            return None, 0
        return quota, quota.nominal_devices

    def _others(self, quota: QueueQuota) -> list[QueueQuota]:
        if quota.cohort is None:
            return []
        return [o for o in self._cohorts.get(quota.cohort, []) if o.name != quota.name]


class Standing:
    """What queues use while one plan is made. A headroom costs the same however many queues a cohort has."""

    def __init__(self, quotas: Quotas, used: Mapping[str, int]) -> None:
        self._quotas, self._used = quotas, dict(used)
        self._free: dict[str, int] = {}  # per cohort, the sum of what is lent at most less what is borrowed

    def headroom(self, queue: str) -> int | None:
        """As `Quotas.headroom` for what is used now."""
        quota = self._quotas.quota(queue)
        if quota is None or quota.nominal_devices is None:
            return None
        own = free = quota.nominal_devices - self._used.get(queue, 0)
        if quota.cohort is not None:
            if quota.cohort not in self._free:
                self._free[quota.cohort] = sum(self._part(one) for one in self._quotas.cohort(queue))
            free += self._free[quota.cohort] - self._part(quota)
        if quota.borrowing_limit is not None:
            free = min(free, own + quota.borrowing_limit)
        return max(0, free)

    def borrows(self, queue: str, devices: int, claims: Collection[str]) -> bool:
        """With so many devices more it would hold above its nominal what a queue of its cohort, one of `claims`, lacks."""
        quota = self._quotas.quota(queue)
        if quota is None or quota.nominal_devices is None or quota.cohort is None:
            return False
        if self._used.get(queue, 0) + devices <= quota.nominal_devices:
            return False
        return any(other.name != queue and other.name in claims for other in self._quotas.cohort(queue))

    def take(self, queue: str, devices: int) -> None:
        """The queue uses so many more; fewer where `devices` is below 0."""
        quota = self._quotas.quota(queue)
        counted = quota is not None and quota.nominal_devices is not None and quota.cohort in self._free
        before = self._part(quota) if counted and quota else 0
        self._used[queue] = self._used.get(queue, 0) + devices
        if counted and quota and quota.cohort is not None:
            self._free[quota.cohort] += self._part(quota) - before

    def cohort(self, queue: str) -> tuple[QueueQuota, ...]:
        """As `Quotas.cohort`."""
        return self._quotas.cohort(queue)

    def owed(self, queue: str, devices: int) -> bool:
        """So many more would be the queue's own, and are lent."""
        quota = self._quotas.quota(queue)
        if quota is None or quota.nominal_devices is None or quota.cohort is None:
            return False
        return self._used.get(queue, 0) + devices <= quota.nominal_devices

    def used(self) -> Mapping[str, int]:
        """Devices by queue, with what was taken."""
        return self._used

    def _part(self, quota: QueueQuota) -> int:
        return _lent(quota, self._used) - _borrowed(quota, self._used)


def beyond(devices: Sequence[int], nominal: int) -> tuple[bool, ...]:
    """Which leases of a queue stand on borrowed devices: those with which it passed its nominal, and all after them.

    devices: of each lease, in the order they started. The oldest leases are thus the last ones that a lender reclaims.
    """
    return tuple(total > nominal for total in accumulate(devices))


def _lent(quota: QueueQuota, used: Mapping[str, int]) -> int:
    assert quota.nominal_devices is not None, "queues without a nominal join no cohort"
    unused = max(0, quota.nominal_devices - used.get(quota.name, 0))
    return unused if quota.lending_limit is None else min(unused, quota.lending_limit)


def _borrowed(quota: QueueQuota, used: Mapping[str, int]) -> int:
    if quota.nominal_devices is None:
        return 0
    return max(0, used.get(quota.name, 0) - quota.nominal_devices)
