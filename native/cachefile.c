/* SPDX-License-Identifier: Apache-2.0 */
#include "cachefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "crc32c.h"
#include "error.h"
#include "miss.h"
#include "pages.h"

enum { IOV_MAX_HERE = OBD_WORKER_IOV, RECOVER_CHUNK = 256 * 1024, PARTS_MAX = 65536 };

#define SUM_SEED UINT32_C(0xFFFFFFFF)

/* ---- life ---- */

static int open_file(struct obd_cachefile *file, const char *path, struct obd_error *err)
{
	if (!*path) {
		// Only its number is needed: for the local copy that may come.
		file->fd = memfd_create("obd-nothing", MFD_CLOEXEC);
		return file->fd < 0 ? obd_fail(err, errno, "memfd: %s", strerror(errno)) : 0;
	}
	file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (file->fd < 0)
		return obd_fail(err, errno, "%s: %s", path, strerror(errno));
	if (ftruncate(file->fd, (off_t)file->size))
		return obd_fail(err, errno, "%s: growing to %llu bytes: %s", path, (unsigned long long)file->size,
				strerror(errno));
	obd_blob_probe(file->fd, &file->nowait, &file->memory);
	return 0;
}

static int cachefile_init(struct obd_cachefile *file, const char *path, struct obd_error *err)
{
	const size_t units = (size_t)(file->size >> file->unit_shift) + 1;

	file->path = strdup(path);
	file->heat = calloc(units, sizeof(*file->heat));
	file->wanted = calloc(units / 64 + 1, sizeof(*file->wanted));
	if (!file->path || !file->heat || !file->wanted || obd_presence_init(&file->present, file->size))
		return obd_fail(err, ENOMEM, "%s: no memory for a map of %llu bytes", path,
				(unsigned long long)file->size);
	return open_file(file, path, err);
}

int obd_cachefile_open(struct obd_misses *misses, const char *path, uint64_t size, uint64_t id,
		       struct obd_cachefile **ret, struct obd_error *err)
{
	struct obd_cachefile *file;
	int r;

	if (size > INT64_MAX)
		return obd_fail(err, EFBIG, "%s: a blob of %llu bytes", path, (unsigned long long)size);
	file = obd_line_calloc(sizeof(*file));
	if (!file)
		return obd_fail(err, ENOMEM, "%s: no memory", path);
	file->misses = misses;
	file->epoch = &misses->seen.epoch;
	file->unit_shift = misses->unit_shift;
	file->id = id;
	file->size = size;
	file->refs = 1;
	file->fd = -1;
	pthread_mutex_init(&file->content_lock, NULL);
	r = cachefile_init(file, path, err);
	if (r) {
		obd_cachefile_close(file);
		return r;
	}
	*ret = file;
	return 0;
}

void obd_cachefile_close(struct obd_cachefile *file)
{
	if (!file || __atomic_sub_fetch(&file->refs, 1, __ATOMIC_ACQ_REL))
		return;
	obd_miss_forget(file);
	obd_pages_destroy(file->pages);
	if (file->fd >= 0)
		close(file->fd);
	if (file->spill) {
		close(file->spill->fd);
		obd_presence_deinit(&file->spill->present);
		free(file->spill);
	}
	obd_presence_deinit(&file->present);
	pthread_mutex_destroy(&file->content_lock);
	free(file->heat);
	free(file->wanted);
	free(file->path);
	free(file);
}

int obd_blob_cached(struct obd_cachefile *file, int timeout_ms, struct obd_blob **ret, struct obd_error *err)
{
	struct obd_blob *blob = calloc(1, sizeof(*blob));

	if (!blob)
		return obd_fail(err, ENOMEM, "%s: no memory", file->path);
	blob->path = strdup(file->path);
	if (!blob->path) {
		free(blob);
		return obd_fail(err, ENOMEM, "%s: no memory", file->path);
	}
	__atomic_add_fetch(&file->refs, 1, __ATOMIC_RELAXED);
	blob->cache = file;
	blob->fd = file->fd;
	blob->direct_fd = -1;
	blob->size = file->size;
	blob->deadline = obd_deadline_ns(timeout_ms);
	*ret = blob;
	return 0;
}

void obd_blob_wait(struct obd_blob *blob, int timeout_ms)
{
	__atomic_store_n(&blob->deadline, obd_deadline_ns(timeout_ms), __ATOMIC_RELAXED);
}

/* ---- reading ---- */

static inline struct obd_spill *spill_of(const struct obd_cachefile *file)
{
	return __atomic_load_n(&file->spill, __ATOMIC_ACQUIRE);
}

void obd_cachefile_heat_up(struct obd_cachefile *file, uint64_t unit, uint32_t old, uint32_t epoch)
{
	if (!(old & OBD_HEAT_MARK))
		__atomic_store_n(&file->heat[unit], epoch, __ATOMIC_RELAXED);
	else if (__atomic_compare_exchange_n(&file->heat[unit], &old, epoch, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		obd_miss_ahead(file, unit);
}

/** All of it or -errno; -EAGAIN when it would wait and must not; -EIO at the file's end. */
static int read_from(int fd, bool nowait, bool memory, const struct iovec *iov, int used, uint64_t count,
		     uint64_t offset, bool wait)
{
	struct iovec list[IOV_MAX_HERE];
	int64_t r = -1;

	if (memory)
		r = preadv(fd, iov, used, (off_t)offset);
	else if (nowait)
		r = preadv2(fd, iov, used, (off_t)offset, RWF_NOWAIT);
	if (r == (int64_t)count)
		return 0;
	if (!wait && !memory)
		return -EAGAIN;
	memcpy(list, iov, (size_t)used * sizeof(*list));
	r = obd_preadv_all(fd, list, used, count, offset);
	if (r < 0)
		return (int)r;
	return r == (int64_t)count ? 0 : -EIO;
}

/** Bytes of the list from skip on, at most count, as a list. */
static int sub_list(const struct iovec *iov, int used, uint64_t skip, uint64_t count, struct iovec *ret)
{
	int n = 0;

	for (int i = 0; i < used && count; i++) {
		uint64_t part = iov[i].iov_len;

		if (skip >= part) {
			skip -= part;
			continue;
		}
		part = part - skip < count ? part - skip : count;
		ret[n++] = (struct iovec){(uint8_t *)iov[i].iov_base + skip, (size_t)part};
		count -= part;
		skip = 0;
	}
	return n;
}

/** As obd_cachefile_preadv where part of the range is in the spill, run by run. */
static int read_mixed(struct obd_cachefile *file, const struct iovec *iov, int used, uint64_t count, uint64_t offset,
		      bool wait)
{
	const bool nowait = __atomic_load_n(&file->nowait, __ATOMIC_RELAXED);
	const bool memory = __atomic_load_n(&file->memory, __ATOMIC_RELAXED);
	const struct obd_spill *spill = spill_of(file);
	struct iovec list[IOV_MAX_HERE];
	uint64_t run;

	for (uint64_t done = 0; done < count; done += run) {
		const struct obd_presence *from = &file->present;
		unsigned begun = obd_presence_begin(from);
		int n, r;

		run = obd_presence_run(from, offset + done, count - done);
		if (!run && spill) {
			from = &spill->present;
			begun = obd_presence_begin(from);
			run = obd_presence_run(from, offset + done, count - done);
		}
		if (!run)
			return OBD_MISSING;
		n = sub_list(iov, used, done, run, list);
		if (from == &file->present)
			r = read_from(file->fd, nowait, memory, list, n, run, offset + done, wait);
		else
			r = read_from(spill->fd, false, true, list, n, run, offset + done, wait);
		if (!r && !obd_presence_holds(from, begun))
			run = 0; // evicted meanwhile: this run again
		if (r)
			return r;
	}
	return 0;
}

int obd_cachefile_preadv(struct obd_cachefile *file, const struct iovec *iov, int used, uint64_t count, uint64_t offset,
			 bool wait)
{
	unsigned begun;
	int r;

	obd_cachefile_touch(file, offset, count);
	do {
		const bool nowait = __atomic_load_n(&file->nowait, __ATOMIC_RELAXED);
		const bool memory = __atomic_load_n(&file->memory, __ATOMIC_RELAXED);

		if (obd_cachefile_is_complete(file))
			return read_from(file->fd, nowait, memory, iov, used, count, offset, wait);
		begun = obd_presence_begin(&file->present);
		if (obd_presence_all(&file->present, offset, count))
			r = read_from(file->fd, nowait, memory, iov, used, count, offset, wait);
		else
			r = read_mixed(file, iov, used, count, offset, wait);
	} while (!r && !obd_presence_holds(&file->present, begun));
	if (!r || r == -EAGAIN || r == OBD_MISSING)
		return r;
	// The cache's disk failed, or somebody cut the file: the registry still has the bytes.
	return obd_cachefile_reject(file, offset, count) ? OBD_MISSING : r;
}

bool obd_cachefile_missing(const struct obd_cachefile *file, uint64_t *offset, uint64_t *count)
{
	const struct obd_spill *spill = spill_of(file);
	const uint64_t end = *offset + *count;
	uint64_t first = end, last = end;

	if (obd_cachefile_is_complete(file))
		return false;
	for (uint64_t at = *offset; at < end;) {
		uint64_t run = obd_presence_run(&file->present, at, end - at);

		if (!run && spill)
			run = obd_presence_run(&spill->present, at, end - at);
		if (!run) {
			run = OBD_GRANULE - at % OBD_GRANULE;
			if (run > end - at)
				run = end - at;
			first = first == end ? at : first;
			last = at + run;
		}
		at += run;
	}
	*offset = first;
	*count = last - first;
	return first != end;
}

/* ---- in place ---- */

struct obd_pages *obd_cachefile_map(struct obd_cachefile *file)
{
	pthread_mutex_lock(&file->content_lock);
	if (!file->pages && (*file->path || obd_cachefile_is_complete(file))) {
		struct obd_pages *pages = NULL;

		if (!obd_pages_create(file->fd, file->size, &pages))
			__atomic_store_n(&file->pages, pages, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&file->content_lock);
	return file->pages;
}

/** Bytes of the range are about to go, or not to be believed. The content lock is held. */
static void clear(struct obd_cachefile *file, struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	obd_presence_clear(presence, offset, count);
	__atomic_fetch_add(&file->misses->seen.clears, 1, __ATOMIC_RELEASE);
	obd_presence_cleared();
}

/* ---- filling ---- */

static int write_all(int fd, const uint8_t *from, size_t count, uint64_t offset)
{
	while (count) {
		ssize_t r = pwrite(fd, from, count, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -ENOSPC;
		from += r;
		count -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static bool fits(const struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	return count && offset % OBD_GRANULE == 0 && offset <= file->size && count <= file->size - offset &&
	       (count % OBD_GRANULE == 0 || offset + count == file->size);
}

/** What is kept of a granule to know it again; never 0, which says that there is none. */
static uint32_t sum_of(const uint8_t *bytes, size_t count)
{
	const uint32_t crc = obd_crc32c(bytes, count, SUM_SEED);

	return crc ? crc : 1;
}

void obd_cachefile_expect(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	pthread_mutex_lock(&file->content_lock);
	if (*file->path && !obd_cachefile_is_complete(file))
		(void)fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count); // not every disk can
	pthread_mutex_unlock(&file->content_lock);
}

int obd_cachefile_fill(struct obd_cachefile *file, const void *buf, size_t count, uint64_t offset, uint32_t *sums)
{
	const uint8_t *bytes = buf;
	int r = 0;

	if (!fits(file, offset, count))
		return -EINVAL;
	pthread_mutex_lock(&file->content_lock);
	if (!obd_cachefile_is_complete(file)) {
		r = *file->path ? write_all(file->fd, bytes, count, offset) : -ENOSPC;
		if (!r)
			obd_presence_set(&file->present, offset, count);
	}
	pthread_mutex_unlock(&file->content_lock);
	if (r)
		return r;
	obd_miss_arrived(file, offset, count); // now: nobody waits for the sums
	for (size_t done = 0; sums && done < count; done += OBD_GRANULE)
		*sums++ = sum_of(bytes + done, count - done < OBD_GRANULE ? count - done : OBD_GRANULE);
	return 0;
}

/** Called with the content lock held. */
static int make_spill(struct obd_cachefile *file)
{
	struct obd_spill *spill = calloc(1, sizeof(*spill));
	int r = -ENOMEM;

	if (!spill)
		return r;
	spill->fd = memfd_create("obd-spill", MFD_CLOEXEC);
	if (spill->fd < 0 || ftruncate(spill->fd, (off_t)file->size))
		r = -errno;
	else
		r = obd_presence_init(&spill->present, file->size);
	if (!r) {
		__atomic_store_n(&file->spill, spill, __ATOMIC_RELEASE);
		return 0;
	}
	if (spill->fd >= 0)
		close(spill->fd);
	free(spill);
	return r;
}

int obd_cachefile_spill(struct obd_cachefile *file, const void *buf, size_t count, uint64_t offset)
{
	int r = 0;

	if (!fits(file, offset, count))
		return -EINVAL;
	pthread_mutex_lock(&file->content_lock);
	if (!obd_cachefile_is_complete(file)) {
		if (!file->spill)
			r = make_spill(file);
		if (!r)
			r = write_all(file->spill->fd, buf, count, offset);
		if (!r)
			obd_presence_set(&file->spill->present, offset, count);
	}
	pthread_mutex_unlock(&file->content_lock);
	if (!r)
		obd_miss_arrived(file, offset, count);
	return r;
}

/** Marks the granules of a run whose sums are known and right. The content lock is held. */
static int64_t recover_run(struct obd_cachefile *file, uint8_t *buffer, uint64_t offset, uint64_t count,
			   const uint32_t *sums)
{
	int64_t recovered = 0;
	struct iovec list = {buffer, (size_t)count};
	const int64_t got = obd_preadv_all(file->fd, &list, 1, count, offset);

	for (uint64_t done = 0; done < count; done += OBD_GRANULE, sums++) {
		const uint64_t part = count - done < OBD_GRANULE ? count - done : OBD_GRANULE;

		if (!*sums || got < (int64_t)(done + part) || sum_of(buffer + done, (size_t)part) != *sums)
			continue;
		obd_presence_set(&file->present, offset + done, part);
		recovered++;
	}
	return recovered;
}

int64_t obd_cachefile_recover(struct obd_cachefile *file, uint64_t offset, uint64_t count, const uint32_t *sums)
{
	uint8_t *buffer;
	int64_t recovered = 0;

	if (!fits(file, offset, count))
		return -EINVAL;
	buffer = malloc(count < RECOVER_CHUNK ? (size_t)count : RECOVER_CHUNK);
	if (!buffer)
		return -ENOMEM;
	for (uint64_t done = 0; done < count; done += RECOVER_CHUNK, sums += RECOVER_CHUNK / OBD_GRANULE) {
		const uint64_t part = count - done < RECOVER_CHUNK ? count - done : RECOVER_CHUNK;

		pthread_mutex_lock(&file->content_lock);
		if (!obd_cachefile_is_complete(file) && *file->path)
			recovered += recover_run(file, buffer, offset + done, part, sums);
		pthread_mutex_unlock(&file->content_lock);
	}
	free(buffer);
	if (recovered)
		obd_miss_arrived(file, offset, count);
	return recovered;
}

void obd_punch(int fd, uint64_t offset, uint64_t count)
{
	// Where there are no holes the room is only given back with the whole file; the bytes are harmless.
	(void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count);
}

/* Called with the content lock held; fd is the whole copy. */
static int exchange(struct obd_cachefile *file, int fd, const char *path, struct obd_error *err)
{
	const int old = dup(file->fd);
	bool nowait, memory;

	if (old < 0)
		return obd_fail(err, errno, "%s: dup: %s", path, strerror(errno));
	obd_blob_probe(fd, &nowait, &memory);
	// A file that only seems to be in memory would keep a front end's thread: so this comes first.
	__atomic_store_n(&file->memory, false, __ATOMIC_RELAXED);
	if (dup3(fd, file->fd, O_CLOEXEC) < 0) {
		int r = obd_fail(err, errno, "%s: dup3: %s", path, strerror(errno));

		close(old);
		return r;
	}
	if (file->pages && obd_pages_move(file->pages, fd))
		__atomic_store_n(&file->pages_lost, true, __ATOMIC_RELAXED);
	__atomic_store_n(&file->nowait, nowait, __ATOMIC_RELAXED);
	__atomic_store_n(&file->complete, true, __ATOMIC_RELEASE);
	__atomic_store_n(&file->memory, memory, __ATOMIC_RELEASE);
	// Its room would be held by whoever still reads from it.
	clear(file, &file->present, 0, file->size);
	if (*file->path)
		obd_punch(old, 0, file->size);
	close(old);
	return 0;
}

int obd_cachefile_switch(struct obd_cachefile *file, const char *path, struct obd_error *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int r = 0;

	if (fd < 0)
		return obd_fail(err, errno, "%s: %s", path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != file->size) {
		close(fd);
		return obd_fail(err, EINVAL, "%s: is no file of %llu bytes", path, (unsigned long long)file->size);
	}
	pthread_mutex_lock(&file->content_lock);
	if (!obd_cachefile_is_complete(file))
		r = exchange(file, fd, path, err);
	pthread_mutex_unlock(&file->content_lock);
	close(fd);
	if (!r)
		obd_miss_arrived(file, 0, file->size);
	return r;
}

/* ---- giving back ---- */

static uint64_t whole_granules(const struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	const uint64_t end = (offset + count + OBD_GRANULE - 1) & ~(uint64_t)(OBD_GRANULE - 1);

	return (end < file->size ? end : file->size) - offset;
}

static bool inside(const struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	return offset <= file->size && count <= file->size - offset;
}

int obd_cachefile_evict(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	if (!inside(file, offset, count) || offset % OBD_GRANULE)
		return -EINVAL;
	count = whole_granules(file, offset, count);
	if (!count)
		return 0;
	pthread_mutex_lock(&file->content_lock);
	if (!obd_cachefile_is_complete(file) && *file->path) {
		clear(file, &file->present, offset, count);
		obd_punch(file->fd, offset, count);
	}
	pthread_mutex_unlock(&file->content_lock);
	return 0;
}

void obd_cachefile_unexpect(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	const uint64_t stop = offset + count;
	uint64_t start, end = offset;

	if (!inside(file, offset, count) || offset % OBD_GRANULE || !*file->path)
		return;
	pthread_mutex_lock(&file->content_lock);
	while (obd_cachefile_next_gap(file, end, &start, &end) && start < stop)
		obd_punch(file->fd, start, (end < stop ? end : stop) - start);
	pthread_mutex_unlock(&file->content_lock);
}

int obd_cachefile_unspill(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	if (!inside(file, offset, count) || offset % OBD_GRANULE)
		return -EINVAL;
	count = whole_granules(file, offset, count);
	pthread_mutex_lock(&file->content_lock);
	if (file->spill && count) {
		clear(file, &file->spill->present, offset, count);
		obd_punch(file->spill->fd, offset, count);
	}
	pthread_mutex_unlock(&file->content_lock);
	return 0;
}

bool obd_cachefile_reject(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	bool fetchable;

	pthread_mutex_lock(&file->content_lock);
	fetchable = !obd_cachefile_is_complete(file);
	if (fetchable) {
		clear(file, &file->present, offset, count);
		if (file->spill)
			clear(file, &file->spill->present, offset, count);
	}
	pthread_mutex_unlock(&file->content_lock);
	return fetchable;
}

/* ---- what the control plane asks ---- */

int obd_cachefile_next_gap(const struct obd_cachefile *file, uint64_t offset, uint64_t *start, uint64_t *end)
{
	uint64_t at = offset & ~(uint64_t)(OBD_GRANULE - 1);

	if (offset >= file->size || obd_cachefile_is_complete(file))
		return 0;
	at += obd_presence_run(&file->present, at, file->size - at);
	if (at >= file->size)
		return 0;
	*start = at;
	*end = at + obd_presence_gap(&file->present, at, file->size - at);
	return 1;
}

int64_t obd_cachefile_present(const struct obd_cachefile *file, uint32_t count, uint32_t *ret)
{
	const struct obd_spill *spill = spill_of(file);
	const uint64_t granules = file->present.granules;
	const bool complete = obd_cachefile_is_complete(file);
	uint64_t sum = 0;

	if (!count || count > PARTS_MAX)
		return -EINVAL;
	for (uint64_t part = 0, first = 0; part < count; part++) {
		const uint64_t stop = granules / count * (part + 1) + granules % count * (part + 1) / count;
		uint64_t found = stop - first;

		if (!complete) {
			found = obd_presence_count(&file->present, first, stop);
			if (spill)
				found += obd_presence_count(&spill->present, first, stop);
			if (found > stop - first) // some of it is in both
				found = stop - first;
		}
		if (ret)
			ret[part] = (uint32_t)found;
		sum += found;
		first = stop;
	}
	return (int64_t)sum;
}

int64_t obd_cachefile_copy(struct obd_cachefile *file, void *buf, size_t count, uint64_t offset)
{
	unsigned begun;
	uint64_t run;

	if (!inside(file, offset, count))
		return -EINVAL;
	do {
		struct iovec list = {buf, 0};
		int64_t r;

		begun = obd_presence_begin(&file->present);
		run = obd_cachefile_is_complete(file) ? count : obd_presence_run(&file->present, offset, count);
		list.iov_len = (size_t)run;
		r = run ? obd_preadv_all(file->fd, &list, 1, run, offset) : 0;
		if (r != (int64_t)run)
			return r < 0 ? r : -EIO;
	} while (!obd_presence_holds(&file->present, begun));
	return (int64_t)run;
}

int obd_cachefile_heat(const struct obd_cachefile *file, uint64_t unit, uint32_t count, uint32_t *ret)
{
	const uint64_t units = (file->size >> file->unit_shift) + 1;

	if (unit > units || count > units - unit)
		return -EINVAL;
	for (uint32_t i = 0; i < count; i++)
		ret[i] = __atomic_load_n(&file->heat[unit + i], __ATOMIC_RELAXED) & ~OBD_HEAT_MARK;
	return 0;
}

int obd_cachefile_mark(struct obd_cachefile *file, uint64_t offset)
{
	if (!inside(file, offset, 0))
		return -EINVAL;
	__atomic_fetch_or(&file->heat[offset >> file->unit_shift], OBD_HEAT_MARK, __ATOMIC_RELAXED);
	return 0;
}
