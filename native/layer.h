/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_LAYER_H
#define OBD_LAYER_H
#include "blob.h"
#include "lsmt.h"
#include "zfile.h"

struct obd_layer {
	struct obd_blob *blob;
	uint64_t base;		 /**< where the ZFile or the raw LSMT stream begins in the blob */
	uint64_t stored_size;	 /**< its bytes in the blob */
	struct obd_zfile *zfile; /**< NULL: the stream is stored as it is */
	bool tar;
	struct obd_lsmt lsmt;
};

/** As obd_layer_open_lean, but looks no further than the wrappers: what is in them may be anything. */
int obd_layer_open_wrappers(struct obd_blob *blob, struct obd_layer **ret, struct obd_error *err);

#endif
