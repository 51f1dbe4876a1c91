"""Small outputs in the forms that nvidia-smi and the tools made after it print, written for these tests."""

from __future__ import annotations

NVIDIA_TABLE = """\
Mon Mar  2 09:15:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 560.35.03              Driver Version: 560.35.03      CUDA Version: 12.6     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA H800                    On  |   00000000:1B:00.0 Off |                    2 |
| N/A   41C    P0            412W /  700W |   71234MiB /  81559MiB |     97%      Default |
|                                         |                        |             Disabled |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA H800                    On  |   00000000:2C:00.0 Off |                  N/A |
|ERR!  ERR!  ERR!            ERR! / ERR!  |   ERR!    /  ERR!      |    ERR!      Default |
|                                         |                        |                 ERR! |
+-----------------------------------------+------------------------+----------------------+
|   2  NVIDIA A100-SXM4-80GB          On  |   00000000:3D:00.0 Off |                   On |
| 30%   33C    P0             62W /  400W |      87MiB /  81920MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| MIG devices:                                                                            |
+------------------+----------------------------------+-----------+-----------------------+
| GPU  GI  CI  MIG |                     Memory-Usage |        Vol|        Shared         |
|      ID  ID  Dev |                       BAR1-Usage | SM     Unc| CE ENC  DEC  OFA  JPG |
|                  |                                  |        ECC|                       |
|==================+==================================+===========+=======================|
|  2    9   0   0  |              12MiB /   9728MiB   | 14      0 |  1   0    0    0    0 |
|                  |                 0MiB / 16383MiB  |           |                       |
+------------------+----------------------------------+-----------+-----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI        PID   Type   Process name                              GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
|    0   N/A  N/A     12345      C   python                                      70000MiB |
+-----------------------------------------------------------------------------------------+
"""

OLD_TABLE = """\
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 440.33.01    Driver Version: 440.33.01    CUDA Version: 10.2     |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|===============================+======================+======================|
|   0  Tesla V100-SXM2...  Off  | 00000000:8A:00.0 Off |                    0 |
| N/A   38C    P0    55W / 300W |      0MiB / 32510MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+
"""

PPU_TABLE = """\
Tue May 12 08:00:00 2026
+---------------------------------------------------------------------------------+
| PPU-SMI 1.30          Driver Version: 2.2.0-aaaa00  HGGC Version: 13.0          |
+---------------------------------+------------------------+----------------------+
| PPU  Name        Persistence M. | Bus-Id                 | Volatile Uncorr. ECC |
| Fan  Temp  Perf   Pwr:Usage/Cap | Memory-Usage           | PPU-Util  Compute M. |
|                                 |                        |               MIG M. |
+=================================+========================+======================+
| 0  PPU-ZW810E        N/A        | 00000000:08:00.0       |                    0 |
| N/A  31C   N/A      174W / 400W | 4096MiB / 98304MiB     |  64%        Default  |
|                                 |                        |             Disabled |
+---------------------------------+------------------------+----------------------+
| 1  PPU-ZW810E        N/A        | 00000000:7E:00.0       |                    0 |
| N/A  N/A   N/A       N/A / 400W | N/A / N/A              |  N/A        Default  |
|                                 |                        |             Disabled |
+---------------------------------+------------------------+----------------------+
"""

IX_TABLE = """\
Timestamp    Thu Jan 15 03:04:05 2026
+-----------------------------------------------------------------------------+
|  IX-ML: 4.2.0       Driver Version: 4.2.0       CUDA Version: 10.2          |
|-------------------------------+----------------------+----------------------|
| GPU  Name                     | Bus-Id               | Clock-SM  Clock-Mem  |
| Fan  Temp  Perf  Pwr:Usage/Cap|      Memory-Usage    | GPU-Util  Compute M. |
|===============================+======================+======================|
| 3    Iluvatar BI-V150         | 00000000:56:00.0     | 1500MHz   1600MHz    |
| 0%   66C   P0    190W / 350W  | 60210MiB / 65536MiB  | 100%      Default    |
+-------------------------------+----------------------+----------------------+
"""

NVIDIA_LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa0000-1111-2222-3333-444444444444)
  MIG 1g.5gb      Device  0: (UUID: MIG-bbbb0000-1111-2222-3333-444444444444)
  MIG 3g.20gb     Device  1: (UUID: MIG-cccc0000-1111-2222-3333-444444444444)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-dddd0000-1111-2222-3333-444444444444)
Unable to determine the device handle for GPU0000:C1:00.0: GPU is lost.  Reboot the system to recover this GPU
"""

PPU_LIST = """\
PPU 0: PPU (UUID: GPU-019ea108-aaaa-0828-0000-000000000001)
PPU 1: PPU (UUID: GPU-019ea108-bbbb-040c-0000-000000000002)
    MIG g1.c1.i1, Device 0 (UUID: MIG-79c62632-04cc-574b-af7b-000000000003)
"""

NVIDIA_LOG = """\

==============NVSMI LOG==============

Timestamp                                 : Wed Mar  4 10:00:00 2026
Driver Version                            : 550.90.07
CUDA Version                              : 12.4

Attached GPUs                             : 1
GPU 00000000:4F:00.0
    Product Name                          : NVIDIA L20
    MIG Mode
        Current                           : N/A
    Serial Number                         : 1320000000001
    GPU UUID                              : GPU-eeee0000-1111-2222-3333-444444444444
    VBIOS Version                         : 95.02.66.00.02
    PCI
        Bus                               : 0x4F
        Device Id                         : 0x26BA10DE
        Bus Id                            : 00000000:4F:00.0
    Clocks Event Reasons
        Idle                              : Active
        SW Power Cap                      : Not Active
        HW Slowdown                       : Active
    FB Memory Usage
        Total                             : 46068 MiB
        Used                              : 3 MiB
    BAR1 Memory Usage
        Total                             : 65536 MiB
        Used                              : 1 MiB
    Utilization
        Gpu                               : 7 %
        Memory                            : 0 %
    Remapped Rows
        Correctable Error                 : 0
        Pending                           : No
        Remapping Failure Occurred        : No
    Temperature
        GPU Current Temp                  : 47 C
        Memory Current Temp               : N/A
    GPU Power Readings
        Power Draw                        : 36.72 W
        Current Power Limit               : 350.00 W
    Clocks
        Graphics                          : 210 MHz
        SM                                : 210 MHz
        Memory                            : 405 MHz
    Processes                             : None
"""

PPU_CSV = """\
root@host:~# ppu-smi --query-ppu=timestamp,index,name,uuid,memory.total,memory.used,utilization.ppu --format=csv
timestamp, index, name, ppu_uuid, memory.total [MiB], memory.used [MiB], utilization.ppu [%], temperature.ppu\r
2026/05/12 09:24:11.132, 4, PPU-ZW810E, GPU-019e-4, 98304 MiB, 606 MiB, 38 %, 44\r
2026/05/12 09:24:11.139, 5, PPU-ZW810E, GPU-019e-5, 98304 MiB, N/A, N/A, N/A\r
"""

IX_CSV = """\
index, driver_version, name, memory.total [MiB], utilization.gpu [%], memory.used [MiB], temperature.gpu, board.power.draw [W]
0, 4.2.0, Iluvatar MR-V100, 32768 MiB, 0 %, 257 MiB, 36 C, 42 W
1, 4.2.0, Iluvatar MR-V100, 32768 MiB, 55 %, 30000 MiB, 71 C, [N/A]
"""

APPS_CSV = """\
pid, process_name, gpu_uuid, used_gpu_memory [MiB]
4711, python, GPU-1, 1024 MiB
4712, ./train, GPU-1, [N/A]
99, tritonserver, GPU-2, 7 MiB
"""

DCGM = """\
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800",Hostname="h",pci_bus_id="00000000:1B:00.0"} 44
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-2",device="nvidia1",modelName="NVIDIA H800",Hostname="h"} 9223372036854775794
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800",Hostname="h"} 301.5
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800",Hostname="h"} 88
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800",Hostname="h"} 1024
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800",Hostname="h"} 80000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800"} 5000000
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-1",device="nvidia0",modelName="NVIDIA H800"} 79
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-2",modelName="NVIDIA H800",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"} 12
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-2",modelName="NVIDIA H800",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"} 9972
"""

EF_TABLE = """\
-------------------------------------------------------------------------------
+2026-03-07, 18:00:00 CST--------------------------------------------------+
|EFSMI    V1.3.1            Driver Ver: 1.3.1                              |
|--------------------------------------------------------------------------|
| DEV    NAME                | FW VER          | BUS-ID      ECC           |
| TEMP   Dpm   Pwr(Usage/Cap)| Mem     GCU Virt| DUsed       SN            |
|--------------------------------------------------------------------------|
| 0      S60                 | 33.6.2          | 00:01:00.0  Enable        |
| 41 C   Active   205W  300W | 42976MiB Disable|  77.5%      A073640510015 |
+--------------------------------------------------------------------------+
| 1      S60                 | 33.6.2          | 00:0a:00.0  Enable        |
| N/A    N/A      N/A   300W | 42976MiB Disable|   N/A       C807J40510285 |
+--------------------------------------------------------------------------+
| 2      S60                 | 33.6.2          | N/A         Enable        |
| N/A    N/A      N/A   N/A  | N/A      N/A    |   N/A       N/A           |
+--------------------------------------------------------------------------+
"""

EF_STARS = """\
*Sat Oct  7 15:54:28 2023-------------------------------------------------*
*EFSMI    V1.20.0          Driver Ver: 2.4.20230829                       *
*-------------------------------------------------------------------------*
* DEV    NAME                | FW VER          | BUS-ID     ECC           *
* TEMP   DPM   Pwr(Usage/Cap)| Mem         vGCU| DEV-Util   UUID          *
*-------------------------------------------------------------------------*
* 0      T20                 | 10.19.3         | 00:3d:0.0  Enable        *
* 30C    Sleep   48.0W  300W | 32G      Disable|   0.0%     W28001210504  *
*-------------------------------------------------------------------------*
"""

EF_QUERY = """\
DEV ID 3
    Driver Info
        Ver                     : 1.4.4
    Device Info
        Dev Name                : S60
        Dev UUID                : TR6Y0000
        Dev SN                  : A0A16
        Health                  : False
    PCIe Info
        Vendor ID               : 1e36
        Device ID               : c035
        Domain                  : 0001
        Bus                     : 9a
        Dev                     : 00
        Func                    : 0
    Power Info
        Power Capa              : 300 W
        Cur Power               : 250 W
    Device Mem Info
        Mem Size                : 42976 MiB
        Mem Usage               : 1129 MiB
    Temperature Info
        GCU Temp                : 71 C
    Device Usage Info
        GCU Usage               : 12.5 %
    RMA Info
        Flags                   : True
        Total DBE               : 3
DEV ID 4
    Device Info
        Dev Name                : S60
        Dev UUID                : N/A
    Power Info
        Cur Power               : N/A
"""

EF_DMON = """\
*GCU Logic  Pwr    DTemp  DUsed  Dpm     M1Temp M2Temp MUsed  Dclk   Mclk
0    0      48.0   30.0   12.5   Sleep   31.0   31.0   0.0    1000   1600
1    1      N/A    N/A    N/A    N/A     N/A    N/A    N/A    N/A    N/A
"""

EF_EXPORTER = """\
enflame_gcu_usage{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 80
enflame_gcu_memory_total_bytes{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 1.7179869184e+10
enflame_gcu_memory_used_bytes{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 1073741824
enflame_gcu_power_usage{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 22.2
enflame_gcu_power_consumption{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 56.0
enflame_gcu_temperatures{busid="0000:40:00.0",minor_number="2",name="Enflame T10",uuid="GCU-U5"}  34.5
enflame_gcu_health{busid="0000:40:00.0",healthmsg="Unhealthy",minor_number="2",name="Enflame T10",uuid="GCU-U5"} 1
enflame_gcu_count{host="h"} 1
"""

KL_MACHINE = """\
[2026-01-02 03:04:05] log line before
00000000:03:00.0 0 0 02K15K1 41 0 0 0 212 1450 1450 1450 1450 1450 1450 2 96 90440 98304 73 1.0:2.6:1.39.1.7 "P800 OAM" 0 0
00000000:05:00.0 1 1 02K15K2 N/A 0 0 0 N/A N/A 1450 1450 1450 1450 1450 2 96 N/A 98304 N/A 1.0:2.6:1.39.1.7 "P800 OAM" 0 0
"""

KL_TABLE = """\
Runtime Version: 4.0
Driver Version: 4.0
  DEVICES
----------------------------------------------------------------------------------------------------------------------
| DevID |   PCI Addr   | Model |    SN    |    INODE   | State | UseRate |    L3     |     Memory     | Power(W) | Temp |
----------------------------------------------------------------------------------------------------------------------
|     0 | 0000:86:00.0 | K200  | 00007a13 | /dev/xpu0  |     N |    12 % | 0 / 16 MB |  504 / 8064 MB |       37 |   41 |
|     1 | 0000:86:00.0 | K200  | 00007a13 | /dev/xpu1  |     N |     0 % | 0 / 16 MB |    0 / 8064 MB |       37 |   39 |
|     2 | 0000:af:00.0 | R300  | 02Kxxx   | /dev/xpu2  | ERROR |     - % | 0 / 63 MB |    - / 32768 MB|        - |    - |
----------------------------------------------------------------------------------------------------------------------
  PROCESSES
-------------------------------------------------
| DevID | PID | Streams | L3 | Memory | Command |
-------------------------------------------------
|     0 | 123 |       1 |  0 |    504 | python  |
-------------------------------------------------
"""

KL_TELEGRAF = (
    "xpusmi,index=5,name=P800\\ OAM,pci_bus_id=00000000:13:00.0,uuid=GPU-kl5 "
    'driver_version="5.19.0.0",memory_total=98304i,memory_used=512i,power_draw=187.5,power_limit=400,'
    'serial="02K1",temperature_gpu=46i,utilization_gpu=31i\n'
)

KL_XML = """\
<?xml version="1.0" ?>
<xpu_smi_log>
  <driver_version>5.0.21</driver_version>
  <xpu id="00000000:03:00.0">
    <product_name>P800 OAM</product_name>
    <uuid>GPU-kl0</uuid>
    <fb_memory_usage><total>98304 MiB</total><used>0 MiB</used></fb_memory_usage>
    <utilization><xpu_util>9 %</xpu_util></utilization>
    <temperature><xpu_temp>36 C</xpu_temp></temperature>
    <power_readings><power_draw>87.00 W</power_draw></power_readings>
  </xpu>
</xpu_smi_log>
"""

KL_EXPORTER = """\
node_xpu_temp{xpu="0",model="P800",sn="02K1"} 50
node_xpu_powerUsage{xpu="0",model="P800",sn="02K1"} 120
node_xpu_utilization{xpu="0",model="P800",sn="02K1"} 65
node_xpu_memtotal{xpu="0",model="P800",sn="02K1"} 98304
node_xpu_memused{xpu="0",model="P800",sn="02K1"} 1024
"""

IX_EXPORTER = """\
ix_mem_total{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 65536
ix_mem_used{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 1
ix_gpu_utilization{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 50
ix_power_usage{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 201
ix_gpu_temperature{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 61
ix_xid_errors{gpu="2",name="Iluvatar BI-V150",uuid="GPU-ix2"} 45
"""
