/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of an append-only layer: data to the end of one file, entries to the end of the other, then into the map. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "full_io.h"
#include "lsmt_record.h"
#include "upper.h"

enum {
	IOVECS = 64,
	GROWTH = 64 * 1024, /* the index file grows by so much at once: syncing it then rarely has to change its size */
	KEEP = 8 * 1024,    /* on a full disk writes leave so much of it to discards, which give space back */
	PAGE = 4096,
	ENTRIES_MAX = 128000000, /* more than that the original does not open */
};

/* ---- data ---- */

static int pwritev_full(int fd, struct iovec *iov, int count, uint64_t offset)
{
	while (count) {
		ssize_t r = pwritev(fd, iov, count, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		offset += (uint64_t)r;
		while (count && (size_t)r >= iov->iov_len) {
			r -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (r) {
			iov->iov_base = (uint8_t *)iov->iov_base + r;
			iov->iov_len -= (size_t)r;
		}
	}
	return 0;
}

int obd_upper_put(int fd, const struct obd_upper_write *writes, unsigned count, uint64_t offset)
{
	struct iovec list[IOVECS];
	uint64_t listed = 0;
	int used = 0, r = 0;

	for (unsigned i = 0; i < count && !r; i++) {
		const struct iovec *iov = writes[i].iov;
		uint64_t left = writes[i].sectors * OBD_SECTOR;
		size_t skip = writes[i].skip;

		for (; left && !r; iov++, skip = 0) {
			size_t part = iov->iov_len - skip;

			if (part > left)
				part = (size_t)left;
			list[used++] = (struct iovec){(uint8_t *)iov->iov_base + skip, part};
			listed += part;
			left -= part;
			if (used < IOVECS)
				continue;
			r = pwritev_full(fd, list, used, offset);
			offset += listed;
			listed = 0;
			used = 0;
		}
	}
	return r ? r : pwritev_full(fd, list, used, offset);
}

/* ---- the index file; append_lock is held ---- */

/* Fills the file with padding up to the next multiple of GROWTH: every reader passes over that. */
static int grow_index(struct obd_upper *upper)
{
	const uint64_t end = (upper->index_padded / GROWTH + 1) * GROWTH;
	uint8_t page[PAGE];

	for (size_t i = 0; i < sizeof(page); i += OBD_LSMT_ENTRY)
		obd_lsmt_entry_fill(page + i, OBD_LSMT_PADDING, 0, 0);
	while (upper->index_padded < end) {
		const uint64_t left = end - upper->index_padded, here = PAGE - upper->index_padded % PAGE;
		const size_t count = (size_t)(left < here ? left : here);
		int r = obd_pwrite_full(upper->index_fd, page, count, upper->index_padded);

		if (r)
			return r;
		upper->index_padded += count;
	}
	return 0;
}

static int make_room(struct obd_upper *upper, uint64_t bytes, uint64_t keep)
{
	int r;

	if (upper->index_end + bytes + KEEP <= upper->index_padded)
		return 0;
	r = grow_index(upper);
	return upper->index_end + bytes + keep <= upper->index_padded ? 0 : r;
}

int obd_upper_append(struct obd_upper *upper, const struct obd_upper_entry *entries, unsigned count, bool keep)
{
	uint8_t raw[OBD_UPPER_WRITES * OBD_LSMT_ENTRY];
	const size_t bytes = count * OBD_LSMT_ENTRY;
	int r = 0;

	assert(count <= OBD_UPPER_WRITES);
	if (!upper->sparse && (upper->index_end + bytes - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY > ENTRIES_MAX)
		return -EFBIG;
	for (unsigned i = 0; i < count; i++)
		obd_lsmt_entry_fill(raw + i * OBD_LSMT_ENTRY, entries[i].sector, entries[i].length, entries[i].map);
	if (obd_upper_index_room(&upper->map) < count) {
		pthread_rwlock_wrlock(&upper->map_lock);
		r = obd_upper_index_reserve(&upper->map, OBD_UPPER_WRITES);
		pthread_rwlock_unlock(&upper->map_lock);
	}
	if (!r && !upper->sparse) {
		r = make_room(upper, bytes, keep ? KEEP : 0);
		if (!r)
			r = obd_pwrite_full(upper->index_fd, raw, bytes, upper->index_end);
	}
	if (r)
		return r;
	upper->index_end += bytes;
	pthread_rwlock_wrlock(&upper->map_lock);
	for (unsigned i = 0; i < count; i++)
		obd_upper_index_set(&upper->map, entries[i].sector, entries[i].length, entries[i].map, obd_upper_lose,
				    upper);
	pthread_rwlock_unlock(&upper->map_lock);
	return 0;
}

void obd_upper_changed(struct obd_upper *upper)
{
	__atomic_add_fetch(&upper->changes, 1, __ATOMIC_RELEASE);
	if (!__atomic_load_n(&upper->dirty, __ATOMIC_RELAXED)) {
		__atomic_store_n(&upper->dirty, true, __ATOMIC_RELAXED);
		obd_upper_timer_kick(upper);
	}
}

/* ---- writes ---- */

static uint64_t take_place(struct obd_upper *upper, uint64_t bytes)
{
	uint64_t place;

	pthread_mutex_lock(&upper->append_lock);
	place = upper->data_end;
	upper->data_end += bytes;
	pthread_mutex_unlock(&upper->append_lock);
	return place;
}

/* Nothing leads to the place, and what was written of it may be what filled the disk. */
static void give_back(struct obd_upper *upper, uint64_t place, uint64_t bytes)
{
	pthread_mutex_lock(&upper->append_lock);
	if (upper->data_end == place + bytes) { /* else somebody is already behind us: it stays garbage */
		upper->data_end = place;
		if (ftruncate(upper->data_fd, (off_t)place)) {
			/* longer than need be, no more: the next write goes over it */
		}
	}
	pthread_mutex_unlock(&upper->append_lock);
}

/* What was written side by side in both, the disk and the file, is one entry. */
static unsigned make_entries(const struct obd_upper_write *writes, unsigned count, uint64_t place,
			     struct obd_upper_entry *entries)
{
	uint64_t msector = place / OBD_SECTOR;
	unsigned made = 0;

	for (unsigned i = 0; i < count; msector += writes[i++].sectors) {
		struct obd_upper_entry *last = made ? &entries[made - 1] : NULL;

		assert(writes[i].sectors && writes[i].sectors <= OBD_LSMT_LENGTH_MAX);
		if (last && last->sector + last->length == writes[i].sector &&
		    last->length + writes[i].sectors <= OBD_LSMT_LENGTH_MAX)
			last->length += writes[i].sectors;
		else
			entries[made++] = (struct obd_upper_entry){writes[i].sector, writes[i].sectors, msector};
	}
	return made;
}

static int append_writes(struct obd_upper *upper, const struct obd_upper_write *writes, unsigned count)
{
	struct obd_upper_entry entries[OBD_UPPER_WRITES];
	uint64_t bytes = 0, place;
	int r;

	for (unsigned i = 0; i < count; i++)
		bytes += writes[i].sectors * OBD_SECTOR;
	place = take_place(upper, bytes);
	r = obd_upper_put(upper->data_fd, writes, count, place);
	if (r) {
		give_back(upper, place, bytes);
		return r;
	}
	pthread_mutex_lock(&upper->append_lock);
	r = obd_upper_append(upper, entries, make_entries(writes, count, place, entries), true);
	if (!r && place + bytes > upper->data_used)
		upper->data_used = place + bytes;
	pthread_mutex_unlock(&upper->append_lock);
	/* after an error the place is not given back: a part of the entries may have reached the file */
	if (!r)
		obd_upper_changed(upper);
	return r;
}

int obd_upper_write(struct obd_upper *upper, const struct obd_upper_write *writes, unsigned count)
{
	int r = -__atomic_load_n(&upper->failed, __ATOMIC_RELAXED);

	assert(count && count <= OBD_UPPER_WRITES);
	if (!upper->sparse && !r)
		return append_writes(upper, writes, count);
	for (unsigned i = 0; i < count && !r; i++)
		r = obd_upper_sparse_write(upper, &writes[i]);
	return r;
}

int obd_upper_zero(struct obd_upper *upper, uint64_t sector, uint64_t end)
{
	struct obd_upper_entry entries[OBD_UPPER_WRITES];
	int r = -__atomic_load_n(&upper->failed, __ATOMIC_RELAXED);

	while (sector < end && !r) {
		unsigned count = 0;
		uint64_t place;

		pthread_mutex_lock(&upper->append_lock);
		/* where data would go; the original wants that to be inside the file */
		place = upper->data_used / OBD_SECTOR;
		for (; sector < end && count < OBD_UPPER_WRITES; count++) {
			uint64_t length = end - sector < OBD_LSMT_LENGTH_MAX ? end - sector : OBD_LSMT_LENGTH_MAX;

			entries[count] = (struct obd_upper_entry){sector, length, place | OBD_ZEROED};
			sector += length;
		}
		r = obd_upper_append(upper, entries, count, false);
		pthread_mutex_unlock(&upper->append_lock);
		if (!r)
			obd_upper_changed(upper);
	}
	return r;
}
