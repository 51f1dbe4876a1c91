/* A libdcmi.so of our own with the real C ABI: cards with NPU chips and a controller (MCU), told by a control file.
 *
 * DCMI_STUB names the file; it is read at every call, so a test changes the host between two questions. Its lines:
 *   cards N          how many cards (8)          chips N       NPU chips of each card (1)
 *   lost CARD        its calls say -8008         hang CARD     its health is never told
 *   single CARD N    its single-bit ECC errors   fault CARD    its health word is 3, with an error code
 *   without CALL     this call is not supported (-8255)        split CARD N  N virtual devices on its chip 0
 *   die CARD         its health ends the process
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dcmi_chip_info_v2 { unsigned char chip_type[32], chip_name[32], chip_ver[32]; unsigned int aicore_cnt; unsigned char npu_name[32]; };
struct dcmi_pcie_info_all { unsigned int venderid, subvenderid, deviceid, subdeviceid; int domain; unsigned int bdf_busid, bdf_deviceid, bdf_funcid; unsigned char reserve[32]; };
struct dcmi_die_id { unsigned int soc_die[5]; };
struct dcmi_hbm_info { unsigned long long memory_size; unsigned int freq; unsigned long long memory_usage; int temp; unsigned int bandwith_util_rate; };
struct dcmi_ecc_info { int enable_flag; unsigned int single_bit_error_cnt, double_bit_error_cnt, total_single_bit_error_cnt, total_double_bit_error_cnt, single_bit_isolated_pages_cnt, double_bit_isolated_pages_cnt, single_bit_next_isolated_pages_cnt, double_bit_next_isolated_pages_cnt; };
struct dcmi_elabel_info { char product_name[256], model[256], manufacturer[256], manufacturer_date[256], serial_number[256]; };
struct dcmi_proc_mem_info { int proc_id; unsigned long proc_mem_usage; };

enum { OK = 0, GONE = -8008, BAD = -8001, UNSUPPORTED = -8255, MCU_AT = 100 };

/* The number after the words of a control line; `otherwise` when there is no such line. */
static long control(const char *word, long card, long otherwise) {
    const char *path = getenv("DCMI_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[128], key[64];
    long found = otherwise, first, second;
    while (file && fgets(line, sizeof line, file)) {
        int held = sscanf(line, "%63s %ld %ld", key, &first, &second);
        if (held < 1 || strcmp(key, word)) continue;
        if (card < 0) found = held > 1 ? first : 1;
        else if (held > 1 && first == card) found = held > 2 ? second : 1;
    }
    if (file) fclose(file);
    return found;
}

static int without(const char *call) {
    const char *path = getenv("DCMI_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[128], name[100];
    int found = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "without %99s", name) == 1 && !strcmp(name, call)) found = 1;
    if (file) fclose(file);
    return found;
}

static int reach(int card, int device, const char *call) {
    if (without(call)) return UNSUPPORTED;
    if (card < 0 || card >= control("cards", -1, 8)) return -8007;
    if (control("lost", card, 0)) return GONE;
    if (device < 0 || (device >= control("chips", -1, 1) && device != MCU_AT)) return -8007;
    return OK;
}
#define REACH(card, device) int code = reach(card, device, __func__); if (code) return code

static int logic(int card, int device) { return card * (int)control("chips", -1, 1) + device; }

int dcmi_init(void) { return without(__func__) ? UNSUPPORTED : OK; }

int dcmi_get_card_list(int *card_num, int *card_list, int list_len) {
    int count = (int)control("cards", -1, 8);
    if (without(__func__)) return UNSUPPORTED;
    if (list_len < count) return BAD;
    *card_num = count;
    for (int card = 0; card < count; card++) card_list[card] = card;
    return OK;
}

int dcmi_get_device_num_in_card(int card, int *device_num) {
    REACH(card, 0);
    *device_num = (int)control("chips", -1, 1) + 1; /* the controller is counted too */
    return OK;
}

int dcmi_get_device_type(int card, int device, unsigned int *type) {
    if (control("lost", card, 0)) return GONE;
    *type = device >= control("chips", -1, 1); /* 0 NPU, 1 MCU */
    return OK;
}

int dcmi_get_device_logic_id(int *logic_id, int card, int device) {
    REACH(card, device);
    *logic_id = logic(card, device);
    return OK;
}

int dcmi_get_device_health(int card, int device, unsigned int *health) {
    REACH(card, device);
    if (control("hang", card, 0)) for (;;) pause();
    if (control("die", card, 0)) _exit(7);
    *health = control("fault", card, 0) ? 3 : 0;
    return OK;
}

int dcmi_get_device_errorcode_v2(int card, int device, int *count, unsigned int *codes, unsigned int length) {
    REACH(card, device);
    *count = control("fault", card, 0) && length ? 1 : 0;
    if (*count) codes[0] = 0x80E01801;
    return OK;
}

int dcmi_get_device_chip_info_v2(int card, int device, struct dcmi_chip_info_v2 *info) {
    REACH(card, device);
    strcpy((char *)info->chip_type, "Ascend");
    strcpy((char *)info->chip_name, control("chips", -1, 1) == 2 ? "Ascend910" : "910B3");
    strcpy((char *)info->chip_ver, "V1");
    info->aicore_cnt = 20;
    strcpy((char *)info->npu_name, "Ascend910B3");
    return OK;
}

int dcmi_get_device_pcie_info_v2(int card, int device, struct dcmi_pcie_info_all *info) {
    REACH(card, device);
    memset(info, 0, sizeof *info);
    info->venderid = 0x19e5, info->deviceid = 0xd802;
    info->bdf_busid = 0x40 + (unsigned)logic(card, device);
    return OK;
}

int dcmi_get_device_die_v2(int card, int device, int type, struct dcmi_die_id *die) {
    REACH(card, device);
    for (int word = 0; word < 5; word++) die->soc_die[word] = (unsigned)(0x01000000 * (type + 1) + 0x100 * logic(card, device) + word);
    return OK;
}

int dcmi_get_card_elabel_v2(int card, struct dcmi_elabel_info *label) {
    REACH(card, 0);
    memset(label, 0, sizeof *label);
    strcpy(label->manufacturer, "Huawei");
    snprintf(label->serial_number, sizeof label->serial_number, "SN%04d", card);
    return OK;
}

int dcmi_get_driver_version(char *version, unsigned int length) {
    if (length < 8) return BAD;
    strcpy(version, "25.5.1");
    return OK;
}

int dcmi_get_device_hbm_info(int card, int device, struct dcmi_hbm_info *info) {
    REACH(card, device);
    info->memory_size = 65536, info->freq = 1600, info->memory_usage = 3400 + (unsigned)card, info->temp = 41, info->bandwith_util_rate = 5;
    return OK;
}

int dcmi_get_device_utilization_rate(int card, int device, int type, unsigned int *rate) {
    REACH(card, device);
    *rate = type == 2 ? 37 : 5;
    return OK;
}

int dcmi_get_device_power_info(int card, int device, int *power) { /* 0.1 W; an A3 card measures on its first die */
    REACH(card, device);
    if (device > 0) return UNSUPPORTED;
    *power = 1013;
    return OK;
}

int dcmi_get_device_temperature(int card, int device, int *temperature) {
    REACH(card, device);
    *temperature = 45;
    return OK;
}

int dcmi_get_device_frequency(int card, int device, int type, unsigned int *frequency) {
    REACH(card, device);
    *frequency = type == 7 ? 1800 : 1600;
    return OK;
}

int dcmi_get_device_ecc_info(int card, int device, int type, struct dcmi_ecc_info *info) {
    REACH(card, device);
    if (type != 2) return UNSUPPORTED;
    memset(info, 0, sizeof *info);
    info->enable_flag = 1;
    info->total_single_bit_error_cnt = (unsigned)control("single", card, 0);
    return OK;
}

int dcmi_get_device_info(int card, int device, int main_cmd, unsigned int sub_cmd, void *buffer, unsigned int *size) {
    REACH(card, device);
    if (main_cmd != 52 || sub_cmd != 1 || *size < 33 * sizeof(unsigned int)) return UNSUPPORTED;
    unsigned int *words = buffer;
    words[0] = device ? 0 : (unsigned)control("split", card, 0);
    for (unsigned int part = 0; part < words[0] && part < 32; part++) words[1 + part] = 100 + part;
    return OK;
}

int dcmi_get_device_resource_info(int card, int device, struct dcmi_proc_mem_info *info, int *number) {
    REACH(card, device);
    if (*number < 1) return BAD;
    *number = 1;
    info[0].proc_id = 4000 + card, info[0].proc_mem_usage = 2048UL << 20;
    return OK;
}

int dcmi_get_topo_info_by_device_id(int card1, int device1, int card2, int device2, int *topology) {
    REACH(card1, device1);
    if ((code = reach(card2, device2, __func__))) return code;
    *topology = card1 == card2 ? 6 : (card1 < 4) == (card2 < 4) ? 3 : 1;
    return OK;
}
