/* SPDX-License-Identifier: Apache-2.0 */
/* What the binding asks before it trusts us: the ABI number and the size of every struct it restates. */
#include <string.h>

#include "obd_ext4.h"

/* clang-format off */
#define SIZE_OF(type) {#type, sizeof(struct type)}
/* clang-format on */

static const struct {
	const char *name;
	size_t size;
} sizes[] = {
	SIZE_OF(obd_error),
	SIZE_OF(obd_ext4_disk),
	SIZE_OF(obd_ext4_progress),
	SIZE_OF(obd_ext4_apply_options),
};

uint32_t obd_ext4_abi(void)
{
	return OBD_EXT4_ABI_VERSION;
}

size_t obd_ext4_sizeof(const char *name)
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!strcmp(sizes[i].name, name))
			return sizes[i].size;
	return 0;
}
