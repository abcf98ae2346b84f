/* SPDX-License-Identifier: Apache-2.0 */
/* What the binding asks before it trusts us: the ABI number, the size of every struct it restates, what was chosen. */
#include <stdio.h>
#include <string.h>

#include "crc32c.h"
#include "obd.h"

/* clang-format off */
#define SIZE_OF(type) {#type, sizeof(struct type)}
/* clang-format on */

static const struct {
	const char *name;
	size_t size;
} sizes[] = {
	SIZE_OF(obd_error),	    SIZE_OF(obd_event),		 SIZE_OF(obd_miss),	      SIZE_OF(obd_receive),
	SIZE_OF(obd_ask),	    SIZE_OF(obd_layer_info),	 SIZE_OF(obd_upper_options),  SIZE_OF(obd_upper_info),
	SIZE_OF(obd_image_options), SIZE_OF(obd_image_info),	 SIZE_OF(obd_image_stats),    SIZE_OF(obd_tcmu_options),
	SIZE_OF(obd_tcmu_stats),    SIZE_OF(obd_output_options), SIZE_OF(obd_commit_options), SIZE_OF(obd_latency),
	SIZE_OF(obd_tcmu_pending),
};

uint32_t obd_abi(void)
{
	return OBD_ABI_VERSION;
}

size_t obd_sizeof(const char *name)
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!strcmp(sizes[i].name, name))
			return sizes[i].size;
	return 0;
}

const char *obd_build_info(void)
{
	static char text[64];

	snprintf(text, sizeof(text), "crc32c=%s", obd_crc32c_version());
	return text;
}
