/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index file is a log: a disk that is written over and over makes it longer for ever, slower to open, and at last
 * too long for the original. So when most of its entries are overwritten it is written anew, with those that count:
 *
 *     sync data -> new file: header, entries as the map has them, checkpoint -> sync it -> rename -> sync the folder
 *
 * Both files say the same, so it does not matter which of them a power cut leaves, and the old one stays in use when
 * any step fails; all but the last, for then nobody knows which of them the disk has.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "full_io.h"
#include "lsmt_record.h"
#include "obd_test.h"
#include "upper.h"

enum {
	ENTRIES_MIN = 4 * 1024 * 1024, /* 64 MiB: below, reading it all takes less than a second */
	TIMES = 4,		       /* as many entries as segments */
	FOUND = 64,
	CHUNK = 64 * 1024,
	CHECKPOINTS = 2048, /* where they begin in the header */
};

static uint64_t entries_min = ENTRIES_MIN, times = TIMES;

void obd_test_upper_compact(uint64_t entries)
{
	entries_min = entries ? entries : ENTRIES_MIN;
	times = entries ? 1 : TIMES;
}

struct output {
	int fd;
	uint64_t offset;
	uint32_t crc;
	size_t count;
	uint8_t *chunk;
};

static int output_flush(struct output *output)
{
	int r = obd_pwrite_full(output->fd, output->chunk, output->count, output->offset);

	output->crc = obd_crc32c(output->chunk, output->count, output->crc);
	output->offset += output->count;
	output->count = 0;
	return r;
}

static int put_entries(struct obd_upper *upper, struct output *output)
{
	uint64_t keys[FOUND], maps[FOUND], sector = 0;
	unsigned found;
	int r = 0;

	do {
		found = obd_upper_find(upper, sector, UINT64_MAX, keys, maps, FOUND);
		for (unsigned i = 0; i < found && !r; i++) {
			sector = obd_key_end(keys[i]);
			obd_lsmt_entry_fill(output->chunk + output->count, obd_key_sector(keys[i]),
					    obd_key_length(keys[i]), maps[i]);
			output->count += OBD_LSMT_ENTRY;
			if (output->count == CHUNK)
				r = output_flush(output);
		}
	} while (found == FOUND && !r);
	return r ? r : output_flush(output);
}

/* The old header, but for its checkpoints: the new one confirms every entry. */
static int put_header(const struct obd_upper *upper, const struct output *output)
{
	struct obd_checkpoint checkpoint = {
		.sequence = upper->sequence + 1,
		.index_end = output->offset,
		.data_end = upper->data_used,
		.index_begin = OBD_LSMT_RECORD,
		.state = OBD_CHECKPOINT_OPEN,
		.entries_crc = output->crc,
	};
	uint8_t header[OBD_LSMT_RECORD];
	int r = obd_pread_full(upper->index_fd, header, sizeof(header), 0);

	if (r)
		return r;
	memcpy(checkpoint.boot, upper->boot, sizeof(checkpoint.boot));
	memset(header + CHECKPOINTS, 0, 2 * OBD_CHECKPOINT_SECTOR);
	obd_checkpoint_fill(header + obd_checkpoint_offset(checkpoint.sequence), &checkpoint);
	return obd_pwrite_full(output->fd, header, sizeof(header), 0);
}

static int put_all(struct obd_upper *upper, struct output *output)
{
	struct stat st;
	int r;

	output->chunk = malloc(CHUNK);
	if (!output->chunk)
		return -ENOMEM;
	output->offset = OBD_LSMT_RECORD;
	r = put_entries(upper, output);
	free(output->chunk);
	if (!r)
		r = put_header(upper, output);
	if (!r && (fstat(upper->index_fd, &st) || fchmod(output->fd, st.st_mode & 07777)))
		r = -errno;
	if (!r && fchown(output->fd, st.st_uid, st.st_gid) && errno != EPERM)
		r = -errno;
	return r ? r : fsync(output->fd) ? -errno : 0;
}

/* Whether the name still leads to the file that is open: else it is no longer ours to replace. */
static bool is_in_place(const struct obd_upper *upper, const char *path)
{
	struct stat named, open;

	return !stat(path, &named) && !fstat(upper->index_fd, &open) && named.st_ino == open.st_ino &&
	       named.st_dev == open.st_dev;
}

/* The folder of a path, to be synced. */
static int open_folder(const char *path)
{
	char folder[PATH_MAX];
	int fd;

	snprintf(folder, sizeof(folder), "%s", path);
	fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int create(struct obd_upper *upper, const char *path, struct output *output)
{
	int r;

	unlink(path);
	output->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (output->fd < 0)
		return -errno;
	r = put_all(upper, output);
	if (r) {
		unlink(path);
		close(output->fd);
	}
	return r;
}

static void take_over(struct obd_upper *upper, const struct output *output)
{
	close(upper->index_fd);
	upper->index_fd = output->fd;
	upper->index_end = upper->index_padded = upper->confirmed = output->offset;
	upper->confirmed_data = upper->data_used;
	upper->sequence++;
}

/* *renamed: there is no way back; an error then is that of a sync. */
static int compact(struct obd_upper *upper, bool *renamed)
{
	char path[PATH_MAX], temporary[PATH_MAX + 32];
	struct output output = {.fd = -1};
	int r, folder;

	if (!realpath(upper->index_path, path) || !is_in_place(upper, path))
		return -ENOENT;
	snprintf(temporary, sizeof(temporary), "%s.new.%d", path, (int)getpid());
	folder = open_folder(path);
	if (folder < 0)
		return folder;
	r = create(upper, temporary, &output);
	if (!r && rename(temporary, path)) {
		r = -errno;
		unlink(temporary);
		close(output.fd);
	} else if (!r) {
		*renamed = true;
		take_over(upper, &output);
		r = fsync(folder) ? -errno : 0;
	}
	close(folder);
	return r;
}

bool obd_upper_is_long(const struct obd_upper *upper)
{
	const uint64_t entries = (upper->index_end - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY;

	return !upper->sparse && entries >= entries_min && entries >= upper->compact_at &&
	       entries > times * upper->map.segments;
}

int obd_upper_compact(struct obd_upper *upper)
{
	bool renamed = false;
	int r = compact(upper, &renamed);

	if (renamed)
		return r;
	if (r) /* not at once again */
		upper->compact_at = 2 * (upper->index_end - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY;
	return 0;
}
