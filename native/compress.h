/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_COMPRESS_H
#define OBD_COMPRESS_H
#include "output.h"
#include "pages.h"
#include "task.h"

/** Where a stream that is to be written comes from. */
struct obd_source {
	uint64_t size; /**< bytes; OBD_UNKNOWN_SIZE: read in order, by one thread at a time, until it gives less than
			  asked */
	/**
	 * What the other two have to know of a range goes into plan, plan_size bytes: called in order, without gaps,
	 * one call at a time, before they are for that range. NULL: there is nothing. 0, or -errno with err filled.
	 */
	int (*plan)(void *opaque, void *plan, size_t count, uint64_t offset, struct obd_error *err);
	size_t plan_size;
	/** Fills buf from offset on. Bytes, fewer than count only at the end; or -errno with err filled. */
	int64_t (*read)(void *opaque, unsigned thread, const void *plan, void *buf, size_t count, uint64_t offset,
			struct obd_error *err);
	/** Where the range lies in the page cache, in pages to be touched under a guard; NULL: it has to be read. */
	const uint8_t *(*look)(void *opaque, const void *plan, size_t count, uint64_t offset, struct obd_pages **pages);
	/** Gives the pages back that were looked at. look and forget may both be NULL. */
	void (*forget)(void *opaque);
	void *opaque;
};

#define OBD_UNKNOWN_SIZE UINT64_MAX
enum { OBD_SOURCE_MAX = 128 * 1024 }; /**< the most that is asked of a source at once */

/** Writes the stream as options say: as it is, or as a ZFile. threads must have been settled. */
int obd_store(const struct obd_source *source, const struct obd_output_options *options, struct obd_output *output,
	      struct obd_task *task, struct obd_error *err);
/** obd_output_create, obd_store and obd_output_publish. */
int obd_store_file(const struct obd_source *source, const struct obd_output_options *options, struct obd_task *task,
		   struct obd_error *err);

#endif
