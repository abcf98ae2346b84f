/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_LSMT_H
#define OBD_LSMT_H
#include "index.h"
#include "obd.h"

/* How the LSMT reader sees the unwrapped stream: the ZFile decoder or the blob itself stands behind it. */
struct obd_stream {
	uint64_t size; /**< bytes */
	const char *name;
	/** Blocking read of exactly count bytes inside [0, size). 0 or -errno. */
	int (*pread)(void *opaque, void *buf, size_t count, uint64_t offset);
	void *opaque;
};

struct obd_lsmt {
	uint64_t virtual_size;
	bool sparse;
	char uuid[40], parent_uuid[40], message[260];
	struct obd_segments segments; /**< ascending, disjoint, no padding, layer number 0 */
};

/** Reads and checks header, trailer and index of a read-only layer. */
int obd_lsmt_open(const struct obd_stream *stream, struct obd_lsmt *ret, struct obd_error *err);
void obd_lsmt_deinit(struct obd_lsmt *lsmt);

#endif
