/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_IMAGE_H
#define OBD_IMAGE_H
#include <stdbool.h>
#include <sys/uio.h>
#include "obd.h"

/*
 * The contract between an image and a front end (TCMU today; ublk, NBD and FUSE fit the same four calls).
 *
 * A front end owns its requests. It fills op, offset, count, iov and done, and gives a batch to obd_image_submit from
 * its own thread. Each request is completed exactly once by a call of done, from any thread, possibly before submit
 * returns; from that call on it is the front end's again. done must not block. The order of completion is the order in
 * which the data is at hand. A read that begins when a write has been completed sees it; of those that overlap in time
 * any order may be seen, sector by sector.
 *
 * submit may leave work queued; the front end's thread then helps with obd_image_work, a piece at a time, between
 * looks at its own ring: so a long command never keeps it from the next short one. Helper threads take the same pieces.
 */
enum obd_op {
	OBD_READ = 0,
	OBD_WRITE,   /**< iov is what is written; offset and count are multiples of 512, as for a discard */
	OBD_FLUSH,   /**< every change that was complete before is on the disk; nothing but op and done counts */
	OBD_DISCARD, /**< the range reads as zeros; no iov */
};

struct obd_request {
	enum obd_op op;
	uint64_t offset;   /**< bytes, inside the virtual size */
	uint64_t count;	   /**< bytes, > 0 */
	struct iovec *iov; /**< sums to count, no empty entries; stays as it is until done */
	unsigned iov_count;
	int result; /**< 0 or -errno, set before done is called */
	void (*done)(struct obd_request *request);

	/* the image's own, undefined for the front end */
	struct obd_request *next;
	uint64_t issued;
	unsigned pending;
};

/** What one front-end thread works with: decoding contexts and buffers. Not to be shared between threads. */
struct obd_worker;
int obd_worker_create(struct obd_image *image, struct obd_worker **ret);
void obd_worker_destroy(struct obd_worker *worker);

void obd_image_submit(struct obd_image *image, struct obd_worker *worker, struct obd_request **batch, unsigned count);
/** Does one queued piece of work, if there is one that needs no waiting. true: there may be more. */
bool obd_image_work(struct obd_image *image, struct obd_worker *worker);

/** The front end has nothing to do. How long it may sleep before it calls this again, ms; -1: as long as it likes. */
int obd_image_rest(struct obd_image *image);

/** The virtual size; it may have grown since the last look. */
uint64_t obd_image_bytes(const struct obd_image *image);
/** Reports to the log; never blocks, never fails. */
void obd_image_report(struct obd_image *image, enum obd_event_kind kind, int code, const char *text);

#endif
