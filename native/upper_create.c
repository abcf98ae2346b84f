/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two new files appear whole or not at all: both are written under other names and synced, then the index gets its
 * name, then the data, whose presence says that there is a layer. An index alone is what a crash between the two has
 * left.
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

#include "error.h"
#include "full_io.h"
#include "little_endian.h"
#include "lsmt_record.h"
#include "upper.h"

struct creation {
	const char *path; /* what it will be called */
	char temporary[PATH_MAX];
};

static int fail_at(struct obd_error *err, const char *path, const char *what)
{
	const int code = errno;

	return obd_fail(err, code, "%s: %s%s%s", path, what, *what ? ": " : "", strerror(code));
}

static int sync_folder(const char *path, struct obd_error *err)
{
	char copy[PATH_MAX];
	int fd, r = 0;

	snprintf(copy, sizeof(copy), "%s", path);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail_at(err, path, "its folder");
	if (fsync(fd) && errno != EINVAL) /* EINVAL: this file system's folders cannot be synced */
		r = fail_at(err, path, "syncing its folder");
	close(fd);
	return r;
}

/* A file under another name: content, then zeros up to size. */
static int prepare(struct creation *creation, const void *content, size_t count, uint64_t size, struct obd_error *err)
{
	int fd, r;

	if (snprintf(creation->temporary, sizeof(creation->temporary), "%s.new.%d", creation->path, (int)getpid()) >=
	    (int)sizeof(creation->temporary))
		return obd_fail(err, ENAMETOOLONG, "%s: %s", creation->path, strerror(ENAMETOOLONG));
	unlink(creation->temporary); /* of a process that had our number */
	fd = open(creation->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0) {
		r = fail_at(err, creation->path, "");
		creation->temporary[0] = 0;
		return r;
	}
	errno = -obd_pwrite_full(fd, content, count, 0);
	if (errno || (size > count && ftruncate(fd, (off_t)size)) || fsync(fd)) {
		r = fail_at(err, creation->path, "writing");
		close(fd);
		return r;
	}
	close(fd);
	return 0;
}

static int publish(struct creation *creation, struct obd_error *err)
{
	/* link refuses an existing name on every kernel; renameat2 helps where there are no hard links */
	if (link(creation->temporary, creation->path)) {
		if (errno == EEXIST)
			return fail_at(err, creation->path, "");
		if (renameat2(AT_FDCWD, creation->temporary, AT_FDCWD, creation->path, RENAME_NOREPLACE))
			return fail_at(err, creation->path, "");
	} else {
		unlink(creation->temporary);
	}
	creation->temporary[0] = 0;
	return 0;
}

/* Whether an index file says nothing: all it has is a header, or less. */
static bool index_is_blank(const char *path)
{
	uint8_t header[OBD_LSMT_RECORD];
	struct stat st;
	bool blank = false;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size == 0)
		blank = true;
	else if (S_ISREG(st.st_mode) && st.st_size == OBD_LSMT_RECORD && !obd_pread_full(fd, header, sizeof(header), 0))
		blank = obd_lsmt_has_magic(header) && obd_le32(header, 28) == OBD_LSMT_HEADER;
	close(fd);
	return blank;
}

static int publish_both(struct creation *data, struct creation *index, struct obd_error *err)
{
	int r;

	if (!access(data->path, F_OK))
		return obd_fail(err, EEXIST, "%s: %s", data->path, strerror(EEXIST));
	if (index_is_blank(index->path))
		unlink(index->path);
	r = publish(index, err);
	if (r)
		return r;
	r = publish(data, err);
	if (r) {
		unlink(index->path);
		return r;
	}
	r = sync_folder(data->path, err);
	return r ? r : sync_folder(index->path, err);
}

static int check_options(const struct obd_upper_options *options, struct obd_error *err)
{
	const char *fault = obd_lsmt_size_fault(options->virtual_size);
	const char *const texts[] = {options->uuid, options->parent_uuid};

	if (fault)
		return obd_fail(err, EINVAL, "virtual_size: %llu %s", (unsigned long long)options->virtual_size, fault);
	if (options->reserved)
		return obd_fail(err, EINVAL, "reserved: %u is not 0", options->reserved);
	for (unsigned i = 0; i < 2; i++) {
		char uuid[40] = "";

		if (!texts[i])
			continue;
		if (strlen(texts[i]) == OBD_UUID_LENGTH)
			obd_uuid_parse((const uint8_t *)texts[i], uuid);
		if (!uuid[0])
			return obd_fail(err, EINVAL, "%s: '%s' is not one", i ? "parent_uuid" : "uuid", texts[i]);
	}
	return 0;
}

static int create_files(struct creation *data, struct creation *index, const struct obd_upper_options *options,
			const char *uuid, struct obd_error *err)
{
	struct obd_lsmt_record record = {
		.flags = OBD_LSMT_HEADER | OBD_LSMT_DATA | (options->sparse ? OBD_LSMT_SPARSE : 0u),
		.virtual_size = options->virtual_size,
		.uuid = uuid,
		.parent_uuid = options->parent_uuid,
	};
	uint8_t header[OBD_LSMT_RECORD];
	int r;

	obd_lsmt_record_fill(header, &record);
	r = prepare(data, header, sizeof(header), options->sparse ? sizeof(header) + options->virtual_size : 0, err);
	if (r)
		return r;
	record.flags = OBD_LSMT_HEADER;
	record.index_offset = OBD_LSMT_RECORD;
	obd_lsmt_record_fill(header, &record);
	r = prepare(index, header, options->sparse ? 0 : sizeof(header), 0, err);
	if (r)
		return r;
	return publish_both(data, index, err);
}

int obd_upper_create(const char *data_path, const char *index_path, const struct obd_upper_options *options,
		     struct obd_error *err)
{
	struct creation data = {.path = data_path}, index = {.path = index_path};
	char random[40];
	int r = check_options(options, err);

	if (r)
		return r;
	r = options->uuid ? 0 : obd_uuid_random(random);
	if (r)
		return obd_fail(err, -r, "%s: no random uuid: %s", data_path, strerror(-r));
	r = create_files(&data, &index, options, options->uuid ? options->uuid : random, err);
	if (data.temporary[0])
		unlink(data.temporary);
	if (index.temporary[0])
		unlink(index.temporary);
	return r;
}
