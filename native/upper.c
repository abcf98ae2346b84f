/* SPDX-License-Identifier: Apache-2.0 */
#include "upper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "full_io.h"

/* ---- reading ---- */

unsigned obd_upper_find(struct obd_upper *upper, uint64_t sector, uint64_t end, uint64_t *keys, uint64_t *maps,
			unsigned count)
{
	unsigned found;

	pthread_rwlock_rdlock(&upper->map_lock);
	found = obd_upper_index_find(&upper->map, sector, end, keys, maps, count);
	pthread_rwlock_unlock(&upper->map_lock);
	return found;
}

int obd_upper_pread(const struct obd_upper *upper, void *buf, size_t count, uint64_t offset)
{
	return obd_pread_full(upper->layer.blob->fd, buf, count, offset);
}

void obd_upper_info(struct obd_upper *upper, struct obd_upper_info *ret)
{
	struct stat st = {0};

	fstat(upper->layer.blob->fd, &st);
	pthread_rwlock_rdlock(&upper->map_lock);
	*ret = (struct obd_upper_info){
		.virtual_size = __atomic_load_n(&upper->virtual_size, __ATOMIC_RELAXED),
		.segments = upper->map.segments,
		.mapped = upper->map.mapped << 9,
		.memory = obd_upper_index_memory(&upper->map),
		.data_size = (uint64_t)st.st_size,
		.dropped = upper->dropped,
		.sparse = upper->sparse,
		.read_only = upper->read_only,
	};
	pthread_rwlock_unlock(&upper->map_lock);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", upper->uuid);
	snprintf(ret->parent_uuid, sizeof(ret->parent_uuid), "%s", upper->parent_uuid);
}

/* ---- life ---- */

static void init_locks(struct obd_upper *upper)
{
	pthread_rwlockattr_t rwlock;
	pthread_condattr_t cond;

	/* a change takes a microsecond: one that waited until no search is under way could wait for ever */
	pthread_rwlockattr_init(&rwlock);
	pthread_rwlockattr_setkind_np(&rwlock, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&upper->map_lock, &rwlock);
	pthread_rwlockattr_destroy(&rwlock);
	pthread_mutex_init(&upper->append_lock, NULL);
	pthread_mutex_init(&upper->flush_lock, NULL);
	pthread_mutex_init(&upper->timer_lock, NULL);
	pthread_condattr_init(&cond);
	pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
	pthread_cond_init(&upper->timer_wake, &cond);
	pthread_condattr_destroy(&cond);
}

static void upper_free(struct obd_upper *upper)
{
	if (!upper)
		return;
	if (upper->data_fd >= 0)
		close(upper->data_fd);
	if (upper->index_fd >= 0)
		close(upper->index_fd);
	obd_upper_index_deinit(&upper->map);
	pthread_rwlock_destroy(&upper->map_lock);
	pthread_mutex_destroy(&upper->append_lock);
	pthread_mutex_destroy(&upper->flush_lock);
	pthread_mutex_destroy(&upper->timer_lock);
	pthread_cond_destroy(&upper->timer_wake);
	obd_blob_close(upper->layer.blob);
	free(upper->garbage);
	free(upper->flushed_garbage);
	free(upper->index_path);
	free(upper);
}

static int open_file(const char *path, bool read_only, struct obd_error *err)
{
	int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd < 0 ? obd_fail(err, errno, "%s: %s", path, strerror(errno)) : fd;
}

/* One writer, or any number of readers. File systems that know no locks have none. */
static int lock_file(int fd, const char *path, bool read_only, struct obd_error *err)
{
	if (flock(fd, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) && errno == EWOULDBLOCK)
		return obd_fail(err, EBUSY, "%s: is in use by another process", path);
	return 0;
}

static int open_files(struct obd_upper *upper, const char *data_path, const char *index_path, struct obd_error *err)
{
	int r = obd_blob_open(data_path, 0, &upper->layer.blob, err);

	if (r)
		return r;
	upper->data_fd = open_file(data_path, upper->read_only, err);
	if (upper->data_fd < 0)
		return upper->data_fd;
	r = lock_file(upper->data_fd, data_path, upper->read_only, err);
	if (r || !index_path || !*index_path)
		return r;
	upper->index_path = strdup(index_path);
	if (!upper->index_path)
		return obd_fail(err, ENOMEM, "%s: no memory", index_path);
	upper->index_fd = open_file(index_path, upper->read_only, err);
	return upper->index_fd < 0 ? upper->index_fd : 0;
}

int obd_upper_open(const char *data_path, const char *index_path, uint32_t flags, struct obd_upper **ret,
		   struct obd_error *err)
{
	struct obd_upper_found found = {0};
	struct obd_upper *upper;
	int r;

	if (flags & ~(OBD_UPPER_READ_ONLY | OBD_UPPER_EXACT | OBD_UPPER_LEAN) ||
	    (flags & OBD_UPPER_LEAN && !(flags & OBD_UPPER_READ_ONLY)))
		return obd_fail(err, EINVAL, "%s: flags 0x%x are not known", data_path, flags);
	upper = calloc(1, sizeof(*upper));
	if (!upper)
		return obd_fail(err, ENOMEM, "%s: no memory", data_path);
	upper->data_fd = upper->index_fd = -1;
	upper->read_only = (flags & OBD_UPPER_READ_ONLY) != 0;
	upper->lean = upper->layer.lsmt.lean = (flags & OBD_UPPER_LEAN) != 0;
	init_locks(upper);
	obd_upper_index_init(&upper->map, upper->read_only || flags & OBD_UPPER_EXACT);
	r = open_files(upper, data_path, index_path, err);
	if (!r)
		r = obd_upper_load(upper, &found, err);
	if (!r && upper->sparse && upper->index_fd >= 0) {
		close(upper->index_fd); /* there, and empty */
		upper->index_fd = -1;
	}
	if (!r && !upper->read_only)
		r = obd_upper_begin(upper, &found, err);
	if (r < 0) {
		upper_free(upper);
		return r;
	}
	*ret = upper;
	return 0;
}

int obd_upper_close(struct obd_upper *upper, struct obd_error *err)
{
	int r;

	if (!upper)
		return 0;
	r = upper->read_only ? 0 : obd_upper_end(upper, err);
	upper_free(upper);
	return r;
}
