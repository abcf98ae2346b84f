/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_CHANGE_H
#define OBD_CHANGE_H
#include "image.h"
#include "read.h"

/*
 * Writes, discards and flushes of an image: what obd_image_submit is given beside reads.
 *
 *     a write the page cache takes at once     on the front end's thread, several of a batch together
 *     a long one, or when the disk is behind   on a thread that may wait
 *     discards and flushes                     on a thread that may wait
 */

/** Serves or hands over everything in batch that is no read; batch then holds the reads. How many there are. */
unsigned obd_change_submit(struct obd_image *image, struct obd_worker *worker, struct obd_request **batch,
			   unsigned count);
/** One of them. 0 or -errno; -EAGAIN: only for a worker that may wait. */
int obd_change_piece(struct obd_worker *worker, const struct obd_piece *piece);

static inline int obd_piece_serve(struct obd_worker *worker, const struct obd_piece *piece)
{
	return piece->request->op == OBD_READ ? obd_read_piece(worker, piece) : obd_change_piece(worker, piece);
}

/** The first sector in [sector, end) that some layer has data for, end when there is none; *stop: where that ends. */
uint64_t obd_change_next_data(const struct obd_image *image, uint64_t sector, uint64_t end, uint64_t *stop);

#endif
