/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of a sparse layer: data goes to its own place, and the file system keeps the index. What it keeps is whole
 * blocks (upper->unit): who writes less than one over other layers has to write the rest of it too (upper_image.c).
 */
#include <errno.h>
#include <fcntl.h>

#include "lsmt_record.h"
#include "upper.h"

int obd_upper_sparse_write(struct obd_upper *upper, const struct obd_upper_write *write)
{
	const uint64_t place = write->sector + OBD_LSMT_DATA_SECTOR;
	const struct obd_upper_entry entry = {write->sector, write->sectors, place};
	int r = obd_upper_put(upper->data_fd, write, 1, place * OBD_SECTOR);

	if (r)
		return r;
	pthread_mutex_lock(&upper->append_lock);
	r = obd_upper_append(upper, &entry, 1, false);
	pthread_mutex_unlock(&upper->append_lock);
	if (!r)
		obd_upper_changed(upper);
	return r;
}

int obd_upper_sparse_unset(struct obd_upper *upper, uint64_t sector, uint64_t end)
{
	int r = -__atomic_load_n(&upper->failed, __ATOMIC_RELAXED);

	if (r)
		return r;
	pthread_mutex_lock(&upper->append_lock);
	pthread_rwlock_wrlock(&upper->map_lock);
	r = obd_upper_index_reserve(&upper->map, 1);
	if (!r)
		obd_upper_index_unset(&upper->map, sector, end);
	pthread_rwlock_unlock(&upper->map_lock);
	pthread_mutex_unlock(&upper->append_lock);
	if (r)
		return r;
	r = fallocate(upper->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)((sector + OBD_LSMT_DATA_SECTOR) * OBD_SECTOR), (off_t)((end - sector) * OBD_SECTOR))
		    ? -errno
		    : 0;
	obd_upper_changed(upper);
	return r;
}
