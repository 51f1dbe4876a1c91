"""Push: the node agent's way to the platform over HTTP (adapters.agent.Push)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.accelerator import Accelerator
from adapters.agent import Refused
from adapters.chain import timestamp
from adapters.device_event import DeviceEvent
from adapters.event import public_text
from adapters.reading import event_document, partition_document, sample_document
from adapters.respondent import Asked, KernelAsked
from adapters.sample import Sample
from metering.enrolment import proof


class HttpPush:
    """Raises httpx.HTTPError when the platform is away, PushRefused when it refuses; the agent keeps the batch and tries again."""

    def __init__(self, server: str, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=server, headers=headers, timeout=10.0, transport=transport)

    def heartbeat(self, node: str, devices: Sequence[Accelerator], at: datetime) -> Asked | None:
        """The node is alive and holds these devices; what the platform asks of it now."""
        told = {"node": node, "at": timestamp(at), "devices": [_device(d) for d in devices]}
        asked = self._post("/v1/agents/heartbeat", told).get("challenge")
        if not asked:
            return None
        kernel = asked["kernel"]
        return Asked(
            nonce=asked["nonce"],
            kernel=None if kernel is None else KernelAsked(id=kernel["id"], device=kernel["device"]),
        )

    def statement(self, node: str, document: Mapping[str, Any], key: str, signature: str) -> None:
        """What the node swears to over the platform's nonce (adapters.respondent.Answers)."""
        self._post(f"/v1/agents/{node}/evidence", {"statement": dict(document), "key": key, "signature": signature})

    def begin(self, node: str, challenge: str) -> Mapping[str, Any]:
        """The kernel's nonce and size; its time runs."""
        return dict(self._post(f"/v1/agents/{node}/kernels/{challenge}", {}))

    def kernel(self, node: str, challenge: str, answer: Mapping[str, Any] | None, reason: str | None) -> None:
        """The kernel's answer, or why there is none."""
        body = {"answer": None if answer is None else dict(answer), "reason": reason}
        self._post(f"/v1/agents/{node}/kernels/{challenge}/answer", body)

    def samples(self, node: str, batch: Sequence[Sample], events: Sequence[DeviceEvent] = ()) -> None:
        """These readings are kept, and what drivers said of devices."""
        readings, said = [sample_document(sample) for sample in batch], [event_document(event) for event in events]
        self._post("/v1/agents/samples", {"node": node, "samples": readings, "events": said})

    def close(self) -> None:
        """Connections are let go."""
        self._http.close()

    def events(self, batch: list[dict[str, Any]], sent_at: datetime) -> list[dict[str, Any]]:
        """One {id, status, code, facts} per signed event, in order: the platform has each of them."""
        return list(self._post("/v1/usage-events", {"events": batch, "sent_at": timestamp(sent_at)})["items"])

    def enrol(self, code: str, key: Ed25519PrivateKey) -> dict[str, Any]:
        """The key speaks for the code's node; {key, node, site, enrolled_at, ...}. Asked again, the same answer."""
        public = public_text(key.public_key())
        return dict(self._post("/v1/agents/keys", {"code": code, "public_key": public, "proof": proof(key, code)}))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._http.post(path, json=body, headers={"Idempotency-Key": uuid.uuid4().hex})
        if answer.is_error:
            raise PushRefused(_told(answer), final=answer.status_code in FINAL)
        return answer.json() if answer.content else None


FINAL = frozenset({400, 413, 422})  # this request is at fault, not the moment


class PushRefused(Refused):
    """The platform would not take it; the message is the platform's own."""


def _told(answer: httpx.Response) -> str:
    """What the problem document says, or at least the status."""
    try:
        problem = answer.json()
        return f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def _device(device: Accelerator) -> dict[str, Any]:
    """The device as JSON values."""
    return {
        **{name: getattr(device, name) for name in _PLAIN},
        "health": device.health.value,
        "source": device.source.value,
        "evidence_level": int(device.evidence_level),
        "problems": list(device.problems),
        "partition": partition_document(device.partition),
    }


_PLAIN = (
    *("uuid", "index", "vendor", "model_raw", "model", "serial", "pci_bdf", "visible_id", "memory_total_bytes"),
    *("driver_version", "health_code"),
)
