/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_SPARSE_H
#define OBD_EXT4_SPARSE_H
#include <stdbool.h>
#include "obd_ext4.h"
#include "pax.h"

/** Where the stored bytes of a sparse file belong; the rest of it is holes. */
struct obd_sparse {
	struct obd_region {
		uint64_t offset, count;
	} * regions;
	size_t count, capacity;
	uint64_t size; /**< of the file, bytes */
};

void obd_sparse_reset(struct obd_sparse *sparse);
/** Adds a region; -EINVAL when it does not lie behind the ones before. */
int obd_sparse_add(struct obd_sparse *sparse, uint64_t offset, uint64_t count);
/** Are all regions inside the file, and stored bytes just what they need? */
bool obd_sparse_fits(const struct obd_sparse *sparse, uint64_t stored);

/** Formats 0.0 and 0.1: the map is in the extended header. */
int obd_sparse_of_pax(struct obd_sparse *sparse, const struct obd_pax *pax);
/** One of the four regions in an old GNU header, or of the 21 in a block that extends it: 1 taken, 0 unused. */
int obd_sparse_of_field(struct obd_sparse *sparse, const uint8_t field[24]);

/** Format 1.0: the map is text in front of the data. Feed it a byte at a time: 1 it is complete, 0 not yet. */
struct obd_sparse_text {
	uint64_t number, wanted, seen, offset;
	unsigned digits;
};
int obd_sparse_of_text(struct obd_sparse *sparse, struct obd_sparse_text *state, uint8_t byte);

#endif
