/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writable layer becomes a read-only one in place: its index and a trailer are appended to the data file. Until the
 * trailer is there whole it stays what it was, for a writable layer is read by its header and its index file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "full_io.h"
#include "little_endian.h"
#include "lsmt_record.h"
#include "upper.h"

enum { CHUNK_ENTRIES = 4096, FOUND = 64, SIZE_OFFSET = 48 };

struct output {
	struct obd_upper *upper;
	uint64_t offset; /* where the next chunk goes */
	uint8_t *chunk;
	size_t count; /* bytes in it */
};

static int output_flush(struct output *output)
{
	int r = obd_pwrite_full(output->upper->data_fd, output->chunk, output->count, output->offset);

	output->offset += output->count;
	output->count = 0;
	return r;
}

static int put_entries(struct output *output)
{
	uint64_t keys[FOUND], maps[FOUND], sector = 0;
	unsigned found;
	int r = 0;

	do {
		found = obd_upper_find(output->upper, sector, UINT64_MAX, keys, maps, FOUND);
		for (unsigned i = 0; i < found && !r; i++) {
			obd_lsmt_entry_fill(output->chunk + output->count, obd_key_sector(keys[i]),
					    obd_key_length(keys[i]), maps[i]);
			output->count += OBD_LSMT_ENTRY;
			if (output->count == CHUNK_ENTRIES * OBD_LSMT_ENTRY)
				r = output_flush(output);
			sector = obd_key_end(keys[i]);
		}
	} while (found == FOUND && !r);
	return r;
}

static int put_trailer(struct output *output, uint64_t index_offset, uint64_t entries)
{
	const struct obd_upper *upper = output->upper;
	const struct obd_lsmt_record record = {
		.flags = OBD_LSMT_DATA | OBD_LSMT_SEALED | (upper->sparse ? OBD_LSMT_SPARSE : 0u),
		.index_offset = index_offset,
		.index_size = entries,
		.virtual_size = upper->virtual_size,
		.uuid = upper->uuid,
		.parent_uuid = upper->parent_uuid,
	};
	int r = output_flush(output);

	if (r)
		return r;
	/* the trailer last, and only when all that it speaks of is on the disk */
	if (fdatasync(upper->data_fd))
		return -errno;
	obd_lsmt_record_fill(output->chunk, &record);
	output->count = OBD_LSMT_RECORD;
	r = output_flush(output);
	return r ? r : fdatasync(upper->data_fd) ? -errno : 0;
}

static int put_all(struct output *output, uint64_t entries)
{
	const uint64_t index_offset = output->offset, padded = (entries * OBD_LSMT_ENTRY + 511) / 512 * 512;
	size_t left;
	int r = put_entries(output);

	if (r)
		return r;
	left = (size_t)(index_offset + padded - output->offset - output->count);
	memset(output->chunk + output->count, 0, left);
	output->count += left;
	return put_trailer(output, index_offset, entries);
}

/* Where the index goes: behind everything, and at a whole sector. */
static int find_end(struct obd_upper *upper, uint64_t *ret)
{
	struct stat st;

	if (fstat(upper->data_fd, &st))
		return -errno;
	*ret = ((uint64_t)st.st_size + OBD_SECTOR - 1) / OBD_SECTOR * OBD_SECTOR;
	return 0;
}

int obd_upper_seal(struct obd_upper *upper, struct obd_error *err)
{
	const char *path = upper->layer.blob->path;
	struct output output = {.upper = upper};
	const uint64_t entries = upper->map.segments;
	uint64_t end = 0;
	int r;

	if (upper->read_only)
		return obd_fail(err, EROFS, "%s: is open for reading, and sealing writes", path);
	if (entries > OBD_LSMT_ENTRIES_MAX)
		return obd_fail(err, EFBIG, "%s: %llu segments, a sealed layer has at most %d; commit it instead", path,
				(unsigned long long)entries, OBD_LSMT_ENTRIES_MAX);
	r = obd_upper_flush(upper);
	if (!r)
		r = find_end(upper, &end);
	if (r)
		return obd_fail(err, -r, "%s: flushing before it is sealed: %s", path, strerror(-r));
	output.offset = end;
	output.chunk = malloc(CHUNK_ENTRIES * OBD_LSMT_ENTRY + OBD_SECTOR);
	r = output.chunk ? put_all(&output, entries) : -ENOMEM;
	free(output.chunk);
	if (!r)
		return 0;
	if (ftruncate(upper->data_fd, (off_t)end)) {
		/* garbage behind the data, which a writable layer may have */
	}
	return obd_fail(err, -r, "%s: writing the index at offset %llu: %s", path, (unsigned long long)end,
			strerror(-r));
}

void obd_upper_unseal(struct obd_upper *upper)
{
	const uint64_t end = upper->sparse ? OBD_LSMT_RECORD + upper->virtual_size : upper->data_end;

	if (ftruncate(upper->data_fd, (off_t)end)) {
		/* as above */
	}
}

static int put_size(int fd, uint64_t virtual_size)
{
	uint8_t field[8];
	int r;

	obd_put_le64(field, 0, virtual_size);
	r = obd_pwrite_full(fd, field, sizeof(field), SIZE_OFFSET);
	return r ? r : fdatasync(fd) ? -errno : 0;
}

int obd_upper_resize(struct obd_upper *upper, uint64_t virtual_size, struct obd_error *err)
{
	const char *path = upper->layer.blob->path, *fault = obd_lsmt_size_fault(virtual_size);
	int r = 0;

	if (upper->read_only)
		return obd_fail(err, EROFS, "%s: is open for reading, and resizing writes", path);
	if (fault)
		return obd_fail(err, EINVAL, "virtual_size: %llu %s", (unsigned long long)virtual_size, fault);
	/* whoever writes the index file anew copies its header */
	pthread_mutex_lock(&upper->flush_lock);
	/* a file too short for its size could not be opened by the original, so it grows first and shrinks last */
	if (upper->sparse && virtual_size > upper->virtual_size)
		r = ftruncate(upper->data_fd, (off_t)(OBD_LSMT_RECORD + virtual_size)) ? -errno : 0;
	if (!r && upper->index_fd >= 0)
		r = put_size(upper->index_fd, virtual_size);
	if (!r)
		r = put_size(upper->data_fd, virtual_size);
	if (!r && upper->sparse && virtual_size < upper->virtual_size)
		r = ftruncate(upper->data_fd, (off_t)(OBD_LSMT_RECORD + virtual_size)) ? -errno : 0;
	if (!r)
		__atomic_store_n(&upper->virtual_size, virtual_size, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&upper->flush_lock);
	if (r)
		return obd_fail(err, -r, "%s: stating a virtual size of %llu: %s", path,
				(unsigned long long)virtual_size, strerror(-r));
	return 0;
}
