"""Small outputs in the form of the tools and exporters of AMD, Intel and the domestic vendors, written for these tests."""

from __future__ import annotations

import json

DETECTED = json.dumps(
    [
        {
            "manufacturer": "nvidia",
            "index": 0,
            "driver_version": "575.57",
            "temperature": 43,
            "power": 700,
            "power_used": 71,
            "appendix": {
                "bdf": "0000:00:0A.0",
                "numa": "0-1",
                "mig_devices": [
                    {
                        "index": 8,
                        "name": "1g.20gb",
                        "uuid": "MIG-1",
                        "memory": 20096,
                        "memory_used": 16,
                        "cores_utilization": 0,
                        "power_used": 71,
                        "memory_status": "healthy",
                        "appendix": {"bdf": "0000:00:0a.0"},
                    }
                ],
            },
        },
        {
            "manufacturer": "nvidia",
            "index": 1,
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": "GPU-1",
            "driver_version": "575.57",
            "cores_utilization": 37.5,
            "memory": 81559,
            "memory_used": 482,
            "memory_status": "unhealthy",
            "temperature": 39,
            "power": None,
            "power_used": 73,
            "appendix": {"bdf": "0000:00:0b.0", "numa": "1"},
        },
    ]
)
DETECTED_DIES = json.dumps(
    [
        {
            "manufacturer": "ascend",
            "index": die,
            "name": "310P3",
            "uuid": f"16E96E64 0000000{die}",
            "memory": 44280,
            "memory_used": 1507,
            "cores_utilization": 0,
            "memory_status": "healthy",
            "power": None,
            "power_used": None,
            "appendix": {"bdf": "0000:81:00.0", "card_id": 4, "device_id": die, "device_id_max": 1},
        }
        for die in (0, 1)
    ]
)
DISTANCES = json.dumps([{"manufacturer": "amd", "devices_distances": [[0, 5], [5, 0]]}])

ROCM_JSON = json.dumps(
    {
        "card0": {
            "Unique ID": "0x1234abcd",
            "VBIOS version": "113-D1",
            "Temperature (Sensor edge) (C)": "N/A",
            "Temperature (Sensor junction) (C)": "41.0",
            "Temperature (Sensor memory) (C)": "38.0",
            "mclk clock speed:": "(1300Mhz)",
            "sclk clock speed:": "(132Mhz)",
            "Max Graphics Package Power (W)": "750.0",
            "Current Socket Graphics Package Power (W)": "133.5",
            "GPU use (%)": "12",
            "Serial Number": "692024000810",
            "PCI Bus": "0000:26:00.0",
            "VRAM Total Memory (B)": "206141652992",
            "VRAM Total Used Memory (B)": "297795584",
            "VIS_VRAM Total Memory (B)": "1",
            "Device Name": "AMD Instinct MI300X",
            "Card Model": "0x74a1",
            "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
            "Device ID": "0x74a1",
            "(Topology) Numa Node": "1",
        },
        "card1": {
            "Unique ID": "N/A",
            "Temperature (Sensor junction) (C)": "N/A",
            "Average Graphics Package Power (W)": "N/A",
            "GPU use (%)": "N/A",
            "Serial Number": "0",
            "PCI Bus": "0000:46:00.0",
            "VRAM Total Memory (B)": "206141652992",
            "VRAM Total Used Memory (B)": "0",
            "Device Name": "AMD Instinct MI300X",
        },
        "system": {"Driver version": "6.10.5"},
    }
)
ROCM_TABLE = """\
========================================= ROCm System Management Interface =========================================
=================================================== Concise Info ===================================================
Device  Node  IDs              Temp        Power     Partitions          SCLK    MCLK    Fan  Perf  PwrCap  VRAM%  GPU%
              (DID,     GUID)  (Junction)  (Socket)  (Mem, Compute, ID)
====================================================================================================================
0       2     0x74a1,   8554   35.0°C      133.0W    NPS1, SPX, 0        131Mhz  900Mhz  0%   auto  750.0W  0%     7%
1       3     0x74a1,   1234   N/A         N/A       NPS1, SPX, 0        132Mhz  900Mhz  0%   auto  750.0W  0%     N/A
====================================================================================================================
=============================================== End of ROCm SMI Log ================================================
"""
ROCM_NAMED = """\
Device  [Model : Revision]    Temp        Power     Partitions      SCLK    MCLK    Fan  Perf  PwrCap  VRAM%  GPU%
        Name (20 chars)       (Junction)  (Socket)  (Mem, Compute)
====================================================================================================================
0       [0x74a1 : 0x00]       35.0°C      133.0W    NPS1, SPX       131Mhz  900Mhz  0%   auto  750.0W    0%   0%
        AMD Instinct MI300X
====================================================================================================================
"""
HY_BROKEN = (  # hy-smi leaves out the commas between its power rails
    '{"card1": {"Card Series": "K100_AI", "Card Vendor": "C-3000 IC Design Co., Ltd.", "Unique ID": "TCH01", '
    '"Average Graphics Package Power (W)": "96.5""Average GFX Core Power (W)": "21.5""Average Memory Power (W)": "37.0", '
    '"Temperature (Sensor edge) (C)": "54.0", "Temperature (Sensor mem) (C)": "51.0", "HCU use (%)": "0.0", '
    '"vram Total Memory (MiB)": "65520", "vram Total Used Memory (MiB)": "60160"}, '
    '"card2": {"Card Series": "K100_AI", "Unique ID": "TCH02", "HCU use (%)": 7.5%, '
    '"vram Total Memory (MiB)": "65520", "vram Total Used Memory (MiB)": "N/A"}}'
)
HY_CSV = """

device,Temperature (Sensor edge) (C),DCU use (%),VRAM Total Memory (B),VRAM Total Used Memory (B),PCI Bus
card0,44.0,3,34342961152,10850304,0000:33:00.0
card1,N/A,N/A,34342961152,N/A,0000:34:00.0
"""
HY_LINES = """\
HCU[0]          : PCI Bus: 0000:09:00.0
HCU[0]          : vram Total Memory (MiB): 65520
HCU[0]          : vram Total Used Memory (MiB): 2
HCU[1]          : vram Total Memory (MiB): 65520
HCU[1]          : vram Total Used Memory (MiB): N/A
Driver version: 6.3.32
"""
HY_TABLE = """\
HCU     Temp     AvgPwr     Perf     PwrCap     VRAM%      HCU%      Mode
0       61.0C    108.0W     auto     400.0W     0%         13.0%     Normal
1       unreadable
"""
DCU_PAGE = """\
# HELP dcu_power_usage power
# TYPE dcu_power_usage gauge
dcu_power_usage{device_id="TCH01",minor_number="0",name="K100_AI",node="n1",pcieBus_number="0000:09:00.0"} 104
dcu_usedmemory_bytes{device_id="TCH01",minor_number="0",name="K100_AI",node="n1",pcieBus_number="0000:09:00.0"} 2097152
dcu_memorycap_bytes{device_id="TCH01",minor_number="0",name="K100_AI",node="n1",pcieBus_number="0000:09:00.0"} 68702699520
dcu_utilizationrate{device_id="TCH01",minor_number="0",name="K100_AI",node="n1",pcieBus_number="0000:09:00.0"} 12.5
dcu_ce_count{device_id="TCH01",minor_number="0",name="K100_AI",block_type="UMC"} 3
vdcu_utilizationrate{device_id="TCH01",minor_number="0"} 99
"""

AMD_ANSWERS = "\n".join(
    [
        "WARNING: not in render group",
        json.dumps(
            [
                {"gpu": 0, "bdf": "0000:05:00.0", "uuid": "75ff75a3-0000-1000", "partition_id": 0},
                {"gpu": 1, "bdf": "0000:05:00.1", "uuid": "76ff75a3-0000-1000", "partition_id": 1},
            ]
        ),
        json.dumps(
            {
                "gpu_data": [
                    {
                        "gpu": 0,
                        "asic": {"market_name": "AMD Instinct MI355X", "vendor_id": "0x1002", "device_id": "0x75a3"},
                        "board": {"product_serial": "PCB01"},
                        "driver": {"version": "6.16.6"},
                        "limit": {"ppt0": {"socket_power_limit": {"value": 1400, "unit": "W"}}, "ppt1": "N/A"},
                        "vram": {"size": {"value": 294896, "unit": "MB"}},
                        "numa": {"node": 1},
                    }
                ]
            }
        ),
        json.dumps(
            {
                "gpu_data": [
                    {
                        "gpu": 0,
                        "mem_usage": {"used_vram": {"value": 283, "unit": "MB"}},
                        "usage": {"gfx_activity": {"value": 9, "unit": "%"}, "umc_activity": {"value": 2, "unit": "%"}},
                        "power": {"socket_power": {"value": 239, "unit": "W"}, "throttle_status": "UNTHROTTLED"},
                        "energy": {"total_energy_consumption": {"value": 12.5, "unit": "kJ"}},
                        "temperature": {"edge": "N/A", "hotspot": {"value": 36, "unit": "C"}},
                        "ecc": {"total_correctable_count": 4, "total_uncorrectable_count": 0},
                        "clock": {"gfx_0": {"clk": {"value": 132, "unit": "MHz"}}},
                    },
                    {"gpu": 1, "usage": {"gfx_activity": "N/A"}, "power": {"socket_power": "N/A"}},
                ]
            }
        ),
    ]
)

CNMON_5 = """\
+------------------------------------------------------------------------------+
| CNMON v5.10.13                                               Driver v5.10.13 |
+-------------------------------+----------------------+-----------------------+
| Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | SR-IOV   Compute-Mode |
|===============================+======================+=======================|
| 0     /   MLU370-X8    v1.1.6 |         0000:39:00.0 | 17%               N/A |
|  0%   32C        98 W/ 250 W  |   120 MiB/ 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+
| 1     /   MLU370-X8    v1.1.6 |         0000:3D:00.0 | N/A                 2 |
|  0%   N/A        N/A  / 250 W |   N/A    / 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+

+------------------------------------------------------------------------------+
| Processes:                                                                   |
|  Card  MI  PID     Command Line                             MLU Memory Usage |
|==============================================================================|
|  0     /   4242    python train.py                                   100 MiB |
+------------------------------------------------------------------------------+
"""
CNMON_4 = """\
| CNMON v4.20.11                                                               |
| Card  VF  Name       Firmware | Inited        Driver | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage |         vMemory-Usage |
| 3     /   MLU370-X4    v1.1.6 | On          v4.20.11 | 0%                  1 |
|  0%   32C         30 W/ 150 W |     0 MiB/ 23308 MiB | 10240 MiB/1048576 MiB |
"""
CNMON_INFO = """\
Card 0
    Product Name                   : MLU370-X8
    UUID                           : MLU-2021
    Serial Number                  : 5022120
    Physical Memory Usage
        Total                      : 23374 MiB
        Used                       : 7 MiB
    Utilization
        MLU Average                : 7 %
    Temperature
        Chip                       : 33 C
    Power
        Usage                      : 27 W
        Cap                        : 150 W
Card 1
    Product Name                   : MLU370-X8
    UUID                           : N/A
    Physical Memory Usage
        Total                      : 23374 MiB
        Used                       : N/A
"""
CNMON_JSON = json.dumps(
    {
        "CnmonInfo": [
            {
                "CardNum": 2,
                "ProductName": "MLU370-X4",
                "UUID": "MLU-7",
                "PCI": {"DomainID": "0", "Bus": "3d", "Device": "0", "Function": "0"},
                "PhysicalMemUsage": {"Total": 23308, "Used": 12},
                "Utilization": {"MLUAverage": 3},
                "Temperature": {"Chip": 41},
            }
        ]
    }
)
MLU_LABELS = (
    'driver="v5.10.22",mcu="v1.1.4",mlu="{0}",model="MLU370-X4",node="n",sn="sn{0}",type="mlu370",uuid="MLU-{0}"'
)
SMLU = 'smlu_instance_id="4",smlu_mem_total="1073741824",smlu_profile_name="1.000m.1gb",smlu_uuid="s4"'
MLU_PAGE = "\n".join(
    [
        "# TYPE mlu_power_usage gauge",
        *(
            line.replace("LABELS", MLU_LABELS.format(number))
            for number in (0, 1)
            for line in (
                "mlu_power_usage{LABELS} 30",
                'mlu_power_usage{LABELS,vf="1"} 99',
                "mlu_memory_total{LABELS} 24440209408",
                "mlu_memory_used{LABELS} 20971520",
                "mlu_utilization{LABELS} 11",
                "mlu_temperature{LABELS} 23",
                "mlu_chip_temperature{LABELS} 25",
                "mlu_fan_speed{LABELS} -1",
            )
        ),
        f'mlu_health{{{MLU_LABELS.format(0)},unhealth_reason=""}} 1',
        f'mlu_health{{{MLU_LABELS.format(1)},unhealth_reason="CNDEV_FR_TEMP_VIOLATION"}} 0',
        f'mlu_last_xid_error{{{MLU_LABELS.format(1)},xid="0x30d641"}} 3155969',
        f'mlu_pcie_info{{{MLU_LABELS.format(0)},pcie_id="0000:1a:00.0",pcie_vendor="cabc",pcie_device_id="370"}} 1',
        f"mlu_smlu_instance_info{{{MLU_LABELS.format(1)},{SMLU}}} 1",
        'mlu_machine_mlu_nums{node="n"} 2',
        "",
    ]
)
MLU_COLLECTED = json.dumps(
    [
        {
            "Desc": f'Desc{{fqName: "{name}", help: "x", constLabels: {{}}}}',
            "Metric": {
                "label": [
                    {"name": "mlu", "value": "0"},
                    {"name": "model", "value": "MLU370-X4"},
                    {"name": "uuid", "value": "u"},
                ],
                "gauge": {"value": value},
            },
        }
        for name, value in (
            ("memory_total", 24440209408),
            ("memory_used", 1024),
            ("power_usage", 31),
            ("utilization", 5),
        )
    ]
)

GMI_JSON = json.dumps(
    {
        "Timestamp": "Wed Jul 22 09:10:11 2026",
        "Driver Version": "3.3.5-server",
        "Attached GPUs": "3",
        "GPU": [
            {
                "Index": "0",
                "Product Name": "MTT S4000",
                "GPU UUID": "aa11",
                "Serial Number": "MY1",
                "MTBios Version": "4.3",
                "PCI": {"Bus ID": "00000000:2a:00.0", "Vendor ID": "0x1ED5", "Device ID": "0x0323"},
                "FB Memory Usage": {"Total": "49152MiB", "Used": "12MiB"},
                "Utilization": {"Gpu": "9%", "Memory": "0%"},
                "Temperature": {"GPU Current Temp": "27C"},
                "Power Readings": {"Power Draw ": "88.25W", "Current Power Limit": "450.00W"},
            },
            {
                "Index": "1",
                "Product Name": "MTT S4000",
                "GPU UUID": "N/A",
                "FB Memory Usage": {"Total": "49152MiB", "Used": "N/A"},
                "Utilization": {"Gpu": "N/A"},
                "Power Readings": {"Power Draw ": "N/A"},
            },
        ],
    }
)
GMI_TABLE = """\
Tue Mar 31 08:00:01 2026
---------------------------------------------------------------------
    mthreads-gmi:2.3.2           Driver Version:3.3.5-server
---------------------------------------------------------------------
ID   Name                 |PCIe                |%GPU  Mem
     Device Type   Perf   |Pcie Lane Width     |Temp  MPC Capable
                                               |      ECC Mode
+-------------------------------------------------------------------+
0    MTT S3000            |00000000:2a:00.0    |61%   20480MiB(32768MiB)
     MPC Parent    P0     |16x(16x)            |52C   YES
                                               |      N/A
+-------------------------------------------------------------------+
1    MTT S3000            |00000000:3a:00.0    |N/A   0MiB(32768MiB)
     Physical      P0     |16x(16x)            |N/A   YES
                                               |      N/A
---------------------------------------------------------------------

---------------------------------------------------------------------
Processes:
ID   PID       Process name                         GPU Memory
                                                         Usage
+-------------------------------------------------------------------+
0    1123      /usr/lib/xorg/Xorg                       134MiB
---------------------------------------------------------------------
"""
GMI_TEXT = """\
Timestamp                      : Wed Jul 22 09:10:11 2026
Driver Version                 : 3.3.5-server
Attached GPUs                  : 1
GPU0 00000000:04:00.0
    Product Name               : MTT S4000
    GPU UUID                   : aa11
    FB Memory Usage
        Total                  : 49152MiB
        Used                   : 2MiB
    Utilization
        Gpu                    : 1%
    Power Readings
        Power Draw             : 30.5W
"""

MX_TABLE = """\
mx-smi  version: 2.2.9

=================== MetaX System Management Interface Log ===================
Timestamp                                         : Fri Mar  6 10:20:30 2026

Attached GPUs                                     : 3
+---------------------------------------------------------------------------------+
| MX-SMI 2.2.9                        Kernel Mode Driver Version: 3.0.11          |
| MACA Version: 3.1.0.14              BIOS Version: 1.26.1.0                      |
|------------------------------------+---------------------+----------------------+
| GPU     NAME         Persistence-M | Bus-id              | GPU-Util      sGPU-M |
| Temp    Pwr:Usage/Cap         Perf | Memory-Usage        | GPU-State            |
|====================================+=====================+======================|
| 0       MetaX N260             Off | 0000:01:00.0        | 12%           Native |
| 39C     31W / 225W              P0 | 702/65536 MiB       | Available            |
+------------------------------------+---------------------+----------------------+
| 1       MetaX N260             Off | 0000:02:00.0        | NA            Native |
| NA      NA / NA                 P0 | NA/65536 MiB        | Not Available        |
+------------------------------------+---------------------+----------------------+
"""
MX_OLD = """\
| GPU         NAME                   | Bus-id              | GPU-Util             |
| Temp        Power                  | Memory-Usage        |                      |
|====================================+=====================+======================|
| 0           MXC500                 | 0000:05:00.0        | 0%                   |
| 49C         68W                    | 51200/65536 MiB     |                      |
+------------------------------------+---------------------+----------------------+
"""
MX_LIST = """\
mx-smi  version: 2.3.1
GPU#0    MXC550      0000:01:00.0   Available (UUID: GPU-abc-123)
GPU#1    MXC550      0000:02:00.0   Not Available(MetaX Sysfs File Unaccessible)
"""
MX_MONITOR = """\
dev, die, hottemp, soctemp, coretemp, power, gpu, vpue, vpud, visvram, vram, xtt, total, bdfid
idx, idx, C, C, C, W, %, %, %, %, %, %, GB,
0, 0, 45, 31, 40, 159, 71, 0, 0, 50, 50, 1, 64, 0000:08:00.0
1, 0, N/A, 31, 36, N/A, N/A, 0, 0, 84, N/A, 1, 64, 0000:09:00.0
0, 0, 46, 31, 40, 160, 72, 0, 0, 50, 25, 1, 64, 0000:08:00.0
"""
MX_PROCESSES = """\
+---------------------------------------------------------------------------------+
| Process:                                                                        |
|  GPU                    PID         Process Name                 GPU Memory     |
|                                                                  Usage(MiB)     |
|=================================================================================|
|  0                   4711           python worker                20480          |
+---------------------------------------------------------------------------------+
"""
MX_PAGE = """\
# TYPE mx_gpu_usage gauge
mx_gpu_usage{uuid="GPU-a",deviceId="0",modelName="MXC500"} 25
mx_memory_total{uuid="GPU-a",deviceId="0",type="xtt"} 1
mx_memory_total{uuid="GPU-a",deviceId="0",type="vram"} 67108864
mx_memory_used{uuid="GPU-a",deviceId="0",type="vram"} 1048576
mx_board_power{uuid="GPU-a",deviceId="0"} 71000
mx_chip_hotspot_temp{uuid="GPU-a",deviceId="0"} 36
mx_gpu_state{uuid="GPU-a",deviceId="0"} 1
"""

XPU_DUMP = """\
Timestamp, DeviceId, GPU Utilization (%), GPU Power (W), GPU Frequency (MHz), GPU Core Temperature (Celsius Degree), \
GPU Memory Used (MiB), GPU Energy Consumed (J)
23:59:59.000,    0,  N/A, 250.25, 1600.00, 35.50, 100.00, 10.5
23:59:59.000,    1,  40.00, N/A, 1600.00, N/A, 0.00, N/A
00:00:01.000,    0,  50.00, 260.75, 1600.00, 36.50,  N/A, 12.5
"""
XPU_DISCOVERY = json.dumps(
    {
        "device_list": [
            {
                "device_id": 0,
                "device_name": "Intel(R) Data Center GPU Max 1550",
                "pci_bdf_address": "0000:4d:00.0",
                "pci_device_id": "0xbd5",
                "uuid": "0000-bd5",
                "vendor_name": "Intel(R) Corporation",
            }
        ]
    }
)
XPU_DETAIL = json.dumps(
    {"device_id": 0, "uuid": "0000-bd5", "memory_physical_size_byte": "137438953472", "serial_number": "unknown"}
)
XPU_STATS = json.dumps(
    {
        "device_id": 0,
        "device_level": [
            {"metrics_type": "XPUM_STATS_POWER", "value": 300.5},
            {"metrics_type": "XPUM_STATS_MEMORY_USED", "value": 229.5},
            {"metrics_type": "XPUM_STATS_GPU_UTILIZATION", "value": 0.0},
            {"metrics_type": "XPUM_STATS_ENERGY", "value": 6159791},
        ],
    }
)
XPU_HEALTH = json.dumps({"device_id": 0, "core_temperature": {"status": "Ok"}, "memory": {"status": "Warning"}})
XPU_PROPERTIES = """\
Device ID,Device Name,Memory Physical Size,PCI BDF Address
0,"Intel(R) Arc(TM) Pro B60 Graphics","24480.00 MiB",0000:23:00.0
"""
XPU_BOXES = """\
+-----------+--------------------------------------------------------------------------------------+
| Device ID | Device Information                                                                   |
+-----------+--------------------------------------------------------------------------------------+
| 0         | Device Name: Intel(R) Graphics [0x020a]                                              |
|           | Vendor Name: Intel(R) Corporation                                                    |
|           | UUID: 00000000-0000-0000-0000-020a00008086                                           |
|           | PCI BDF Address: 0000:4d:00.0                                                        |
+-----------+--------------------------------------------------------------------------------------+
"""
KUNLUN = '0000:53:00.0 0 - 024XJ 45 C 0 0 78 0 0 0 0 0 0 0 0 1024 98304 3 5.0 "P800 OAM"\n'

NPU_USAGES = """\
/usr/local/bin/npu-smi info -i 3 -t usages
\tNPU ID                         : 3
\tChip Count                     : 2

\tHBM Capacity(MB)               : 32768
\tHBM Usage Rate(%)              : 25
\tAicore Usage Rate(%)           : 37
\tHBM Bandwidth Usage Rate(%)    : 5
\tChip ID                        : 0

\tDDR Capacity(MB)               : 8192
\tHBM Capacity(MB)               : 0
\tHBM Usage Rate(%)              : 0
\tDDR Usage Rate(%)              : 50
\tAicore Usage Rate(%)           : NA
\tChip ID                        : 1

/usr/local/bin/npu-smi info -i 3 -c 0 -t health
\tHealth Status                  : Alarm
\tError Code                     : A4025021

"""
NPU_COMMON = """\
NPU ID                         : 2944
Chip Count                     : 1

Chip ID                        : 0
Memory Usage Rate(%)           : 2
Aicore Usage Rate(%)           : 0
Aicore curFreq(MHZ)            : 960
Temperature(C)                 : 45

Chip Name                      : mcu
Temperature(C)                 : 48
NPU Real-time Power(W)         : 42.8
"""
NPU_LOG = "time,dev_id,power,freq,temp\n1670052428,0,69.6,1000,42\n1670052442,1,NA,800,\n1670052455,0,69,1000,43\n"
NPU_LABELS = 'id="{0}",model_name="910B3-Ascend-V1",pcie_bus_info="0000:C{0}:00.0",vdie_id="AB-{0}"'
NPU_PAGE = "\n".join(
    [
        "machine_npu_nums 2",
        *(
            line.replace("LABELS", NPU_LABELS.format(number))
            for number in (0, 1)
            for line in (
                "npu_chip_info_hbm_total_memory{LABELS} 65536 1723621883587",
                "npu_chip_info_hbm_used_memory{LABELS} 3410 1723621883587",
                "npu_chip_info_total_memory{LABELS} 0 1723621883587",
                "npu_chip_info_used_memory{LABELS} 0 1723621883587",
                "npu_chip_info_utilization{LABELS} 37 1723621883587",
                "npu_chip_info_power{LABELS} 93.9 1723621883587",
                f"npu_chip_info_health_status{{LABELS}} {1 - number} 1723621883587",
                'npu_chip_info_utilization{LABELS,v_dev_id="100"} 99 1723621883587',
            )
        ),
        "",
    ]
)
