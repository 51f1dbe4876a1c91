"""Small outputs in the form of the vendors' tools, written for these tests, and where real ones may lie."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

AT = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)

NPU_23 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.0                   Version: 24.1.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 2     910B3               | OK            | 101.5       44                0    / 0             |
| 0                         | 0000:C1:00.0  | 37          0    / 0          30411/ 65536         |
+===========================+===============+====================================================+
| 5     910B3               | Warning       | NA          -                 0    / 0             |
| 0                         | 0000:01:00.0  | NA          0    / 0          0    / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 2       0                 | 4242          | python                   | 27000                   |
+===========================+===============+====================================================+
| No running processes found in NPU 5                                                            |
+===========================+===============+====================================================+
"""

NPU_21 = """\
+------------------------------------------------------------------------------+
| npu-smi 21.0.2                       Version: 21.0.2                         |
+-------------------+-----------------+----------------------------------------+
| NPU     Name      | Health          | Power(W)          Temp(C)              |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)     |
+===================+=================+========================================+
| 3       310       | OK              | 13.1              50                   |
| 0       4         | 0000:05:00.0    | 8                 2700 / 8192          |
+-------------------+-----------------+----------------------------------------+
| 3       310       | OK              | 12.9              51                   |
| 1       5         | 0000:06:00.0    | 0                 2621 / 8192          |
+-------------------+-----------------+----------------------------------------+
"""

NPU_22 = """\
+----------------------------------------------------------------------------------------------------+
| npu-smi 22.0.0                            Version: 22.0.0                                          |
+-------------------+-----------------+--------------------------------------------------------------+
| NPU     Name      | Health          | Power(W)          Temp(C)              Hugepages-Usage(page) |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)                           |
+===================+=================+==============================================================+
| 1       310P3     | OK              | NA                41                   0          / 970      |
| 0       0         | 0000:82:00.0    | 5                 900  / 21534                               |
+===================+=================+==============================================================+
"""

NPU_A3 = """\
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 1     Ascend910           | OK            | 180.1       35                0    / 0             |
| 0     2                   | 0000:8D:00.0  | 90          0    / 0          60000/ 65536         |
+------------------------------------------------------------------------------------------------+
| 1     Ascend910           | OK            | -           36                0    / 0             |
| 1     3                   | 0000:8F:00.0  | 91          0    / 0          60001/ 65536         |
+===========================+===============+====================================================+
"""

NPU_MAPPING = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t2                              0                              6                              Ascend 910B3
\t2                              1                              -                              MCU
\t5                              0                              7                              Ascend 910B3
"""

NPU_BOARD = """\
        NPU ID                         : 2
        Model                          : NA
        Serial Number                  : 1024XYZ
        Software Version               : 24.1.0
        Firmware Version               : 7.5.0
        Board ID                       : 0x65
        PCIe Bus Info                  : 0000:C1:00.0
"""

SMI_XML = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <timestamp>Sun Mar  1 08:00:00 2026</timestamp>
  <driver_version>550.90.07</driver_version>
  <gpu id="00000000:1B:00.0">
    <product_name>NVIDIA H800</product_name>
    <mig_mode><current_mig>Disabled</current_mig></mig_mode>
    <serial>1650000000001</serial>
    <uuid>GPU-11111111-2222-3333-4444-555555555555</uuid>
    <minor_number>3</minor_number>
    <vbios_version>96.00.5E.00.01</vbios_version>
    <pci><pci_bus_id>00000000:1B:00.0</pci_bus_id></pci>
    <fb_memory_usage><total>81559 MiB</total><used>1024 MiB</used></fb_memory_usage>
    <utilization><gpu_util>42 %</gpu_util></utilization>
    <ecc_errors><aggregate><sram_uncorrectable>1</sram_uncorrectable>
      <dram_uncorrectable>2</dram_uncorrectable></aggregate></ecc_errors>
    <remapped_rows><remapped_row_pending>No</remapped_row_pending>
      <remapped_row_failure>No</remapped_row_failure></remapped_rows>
    <temperature><gpu_temp>55 C</gpu_temp></temperature>
    <gpu_power_readings><power_draw>410.25 W</power_draw>
      <current_power_limit>700.00 W</current_power_limit></gpu_power_readings>
  </gpu>
  <gpu id="00000000:2C:00.0">
    <product_name>NVIDIA H800</product_name>
    <serial>N/A</serial>
    <uuid>GPU-99999999-2222-3333-4444-555555555555</uuid>
    <fb_memory_usage><total>81559 MiB</total><used>[Unknown Error]</used></fb_memory_usage>
    <utilization><gpu_util>N/A</gpu_util></utilization>
    <temperature><gpu_temp>[GPU requires reset]</gpu_temp></temperature>
    <gpu_power_readings><power_draw>[N/A]</power_draw></gpu_power_readings>
    <remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows>
  </gpu>
</nvidia_smi_log>
"""

SMI_CSV = """\
index, uuid, name, pci.bus_id, memory.total [MiB], memory.used [MiB], utilization.gpu [%], power.draw [W]
1, GPU-aaaaaaaa-2222-3333-4444-555555555555, Tesla T4, 00000000:AF:00.0, 15360 MiB, 0 MiB, 0 %, 9.50 W
0, GPU-bbbbbbbb-2222-3333-4444-555555555555, Tesla T4, 00000000:D8:00.0, 15360 MiB, [N/A], [N/A], [Not Supported]
"""


def recordings(*folders: str) -> Path:
    """The folder of real recordings, or a skip that says what is missing."""
    shared = Path(os.environ.get("YISUAN_SHARED") or Path(__file__).parents[3] / "shared")
    folder = shared.joinpath("recordings", *folders)
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}; set YISUAN_SHARED to the folder that holds them")
    return folder
