"""NVIDIA: devices through NVML, else through nvidia-smi; recordings of nvidia-smi and dcgm-exporter.

NVML (libnvidia-ml.so.1) is the vendor's own stable library, called through the vendor's own binding, nvidia-ml-py: what
nvidia-smi prints it takes from there, and NVML adds energy, events and the fabric. It runs in a process of its own,
since a wedged driver blocks its callers. Units are converted in adapters/nvml.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.accelerator import Accelerator
from adapters.nvidia_smi import SEMANTICS, VENDOR, parse_recording
from adapters.nvml_adapter import NvmlAdapter


class Nvidia(NvmlAdapter):
    """NVIDIA devices of this host."""

    vendor = VENDOR
    semantics = SEMANTICS
    names = ("libnvidia-ml.so.1",)
    graded = True
    tool = ("nvidia-smi", "-q", "-x")
    parse = staticmethod(parse_recording)

    def visibility(self, devices: Sequence[Accelerator]) -> Mapping[str, str]:
        """Variables that show a process exactly these devices, by uuid: indices differ between NVML and CUDA.

        CUDA_VISIBLE_DEVICES is read by the CUDA runtime, NVIDIA_VISIBLE_DEVICES by the container runtime;
        CUDA_DEVICE_ORDER makes the order inside the process that of the bus. No device: an empty list, and
        `void`.
        """
        names = ",".join(device.visible_id or device.uuid for device in devices)
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": names,
            "NVIDIA_VISIBLE_DEVICES": names or "void",
        }
