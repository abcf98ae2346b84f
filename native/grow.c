/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that grows while it is in use. Each step leaves files that open, whoever dies when:
 *
 *     changes wait -> the layer states the new size, synced -> requests may reach there -> changes go on
 *
 * Of an append-only layer's two headers the index file's counts and comes first, of a sparse one the file is longer
 * first: whichever are written, the layer has the old size or the new one, and nothing behind the old one yet.
 */
#include <errno.h>

#include "error.h"
#include "image_private.h"
#include "lsmt_record.h"
#include "upper.h"

static int refuse(const struct obd_image *image, uint64_t virtual_size, struct obd_error *err)
{
	const uint64_t now = image->info.virtual_size;

	if (virtual_size % OBD_SECTOR || !virtual_size)
		return obd_fail(err, EINVAL, "virtual_size: %llu is not a multiple of 512",
				(unsigned long long)virtual_size);
	if (virtual_size < now)
		return obd_fail(err, EPERM,
				"virtual_size: %llu is less than the %llu of now, and a disk in use only grows",
				(unsigned long long)virtual_size, (unsigned long long)now);
	return 0;
}

int obd_image_grow(struct obd_image *image, uint64_t virtual_size, struct obd_error *err)
{
	int r;

	if (!image->writable)
		return obd_fail(err, EROFS, "the image has no writable layer");
	pthread_rwlock_wrlock(&image->change_lock);
	r = refuse(image, virtual_size, err);
	if (!r && virtual_size > image->info.virtual_size)
		r = obd_upper_resize(image->upper, virtual_size, err);
	if (!r)
		__atomic_store_n(&image->info.virtual_size, virtual_size, __ATOMIC_RELAXED);
	pthread_rwlock_unlock(&image->change_lock);
	return r;
}
