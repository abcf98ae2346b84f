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
	bool lean;		      /**< segments were checked and not kept: obd_lsmt_read has them */
	struct obd_segments segments; /**< ascending, disjoint, no padding, layer number 0 */
	uint64_t index_offset, entries;
};

/** Reads and checks header, trailer and index of a read-only layer; lean keeps no segments of it. */
int obd_lsmt_open(const struct obd_stream *stream, bool lean, struct obd_lsmt *ret, struct obd_error *err);
enum { OBD_LSMT_CHUNK = 4096 };
/**
 * Appends what entries [first, first + count) say to segments, which has the room; NULL: they are only checked. count
 * is at most OBD_LSMT_CHUNK, buffer has as many entries; behind is where the last segment so far ends.
 */
int obd_lsmt_read(const struct obd_stream *stream, const struct obd_lsmt *lsmt, uint64_t first, size_t count,
		  uint8_t *buffer, uint64_t *behind, struct obd_segments *segments, struct obd_error *err);
void obd_lsmt_deinit(struct obd_lsmt *lsmt);

#endif
