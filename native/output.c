/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a file nobody sees before it is complete.
 *
 * It has no name while it is written (O_TMPFILE), so that whatever ends the process leaves nothing behind; where the
 * file system cannot do that, it has a temporary one. It is given its name by link or rename when it is on the disk.
 *
 * The caller fills one buffer of a ring while a thread writes the ones before it, past the page cache where the file
 * system lets it: measured on ext4, the CPU time of a write falls from 0.18 ns a byte to 0.05, and a node that commits
 * a large layer keeps in its memory what its containers read. The end of the file, and what is replaced at its
 * beginning, are not aligned and go through the page cache when everything else is written.
 */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "tar.h"
#include "thread.h"

enum {
	BUFFERS = 4,
	BUFFER = 2 * 1024 * 1024, /**< one write, and a huge page: any disk is busy with one at a time */
	ALIGN = 4096,
};

struct obd_output {
	char *path, *folder;
	char *temporary; /**< NULL: no name to remove */
	bool replace, tar;
	mode_t mode;
	int fd;
	bool direct; /**< the writer's, and the publisher's when the writer has ended */
	bool scratch;
	uint8_t *memory;
	unsigned filling; /**< the buffer the caller is at, the writer never */
	size_t used;	  /**< bytes in it */
	uint64_t size;	  /**< bytes of the file, what is in the buffers included */
	uint8_t head[OBD_OUTPUT_HEAD];
	size_t head_count;

	pthread_t writer;
	bool has_writer;
	pthread_mutex_t lock; /**< guards what follows; never held across a write */
	pthread_cond_t changed;
	unsigned full;	  /**< buffers the writer has not written yet */
	uint64_t written; /**< bytes in the file */
	bool stop;
	struct obd_error error; /**< of the first write that failed */
};

static uint64_t base_of(const struct obd_output *output)
{
	return output->tar ? OBD_TAR_HEADERS : 0;
}

static uint8_t *buffer_of(const struct obd_output *output, unsigned number)
{
	return output->memory + (size_t)number * BUFFER;
}

static int write_failed(const struct obd_output *output, int code, uint64_t offset, struct obd_error *err)
{
	return obd_fail(err, code, "%s: writing at offset %llu: %s", output->path, (unsigned long long)offset,
			strerror(code));
}

/* ---- the writer ---- */

static void clear_direct(struct obd_output *output)
{
	int flags = fcntl(output->fd, F_GETFL);

	if (flags >= 0)
		fcntl(output->fd, F_SETFL, flags & ~O_DIRECT);
	output->direct = false;
}

static int write_at(struct obd_output *output, const uint8_t *from, size_t count, uint64_t offset,
		    struct obd_error *err)
{
	while (count) {
		ssize_t r = pwrite(output->fd, from, count, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		// Some file systems take the flag and then want more alignment than they say, or none of it.
		if ((r < 0 && errno == EINVAL && output->direct) || (r >= 0 && r % ALIGN && output->direct)) {
			clear_direct(output);
			r = r < 0 ? 0 : r;
		} else if (r <= 0) {
			return write_failed(output, r ? errno : EIO, offset, err);
		}
		from += r;
		count -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static void *writer_main(void *argument)
{
	struct obd_output *output = argument;
	unsigned number = 0;

	pthread_setname_np(pthread_self(), "obd-writer");
	pthread_mutex_lock(&output->lock);
	for (;;) {
		const uint64_t offset = output->written;
		struct obd_error error;
		int r;

		while (!output->full && !output->stop)
			pthread_cond_wait(&output->changed, &output->lock);
		if (!output->full || output->error.code)
			break;
		pthread_mutex_unlock(&output->lock);
		r = write_at(output, buffer_of(output, number), BUFFER, offset, &error);
		// What went to the page cache starts for the disk now, so that the sync at the end finds little.
		if (!r && !output->direct)
			sync_file_range(output->fd, (off_t)offset, BUFFER, SYNC_FILE_RANGE_WRITE);
		number = (number + 1) % BUFFERS;
		pthread_mutex_lock(&output->lock);
		if (r)
			output->error = error;
		output->written += BUFFER;
		output->full--;
		pthread_cond_broadcast(&output->changed);
	}
	output->full = 0;
	pthread_cond_broadcast(&output->changed);
	pthread_mutex_unlock(&output->lock);
	return NULL;
}

static int start_writer(struct obd_output *output, struct obd_error *err)
{
	const int r = obd_thread_create(&output->writer, NULL, writer_main, output);

	output->has_writer = r == 0;
	return r ? obd_fail(err, r, "%s: no thread to write with: %s", output->path, strerror(r)) : 0;
}

/** The writer writes what it has, and ends. */
static void join_writer(struct obd_output *output)
{
	if (!output->has_writer)
		return;
	pthread_mutex_lock(&output->lock);
	output->stop = true;
	pthread_cond_broadcast(&output->changed);
	pthread_mutex_unlock(&output->lock);
	pthread_join(output->writer, NULL);
	output->has_writer = false;
}

/** The buffer is full: the writer's from now on. Waits until the next one is free. */
static int hand_over(struct obd_output *output, struct obd_error *err)
{
	int code;

	pthread_mutex_lock(&output->lock);
	output->full++;
	pthread_cond_broadcast(&output->changed);
	while (output->full == BUFFERS)
		pthread_cond_wait(&output->changed, &output->lock);
	code = output->error.code;
	if (code && err)
		*err = output->error;
	pthread_mutex_unlock(&output->lock);
	output->filling = (output->filling + 1) % BUFFERS;
	output->used = 0;
	return -code;
}

void *obd_output_room(struct obd_output *output, size_t count)
{
	return count <= BUFFER - output->used ? buffer_of(output, output->filling) + output->used : NULL;
}

int obd_output_advance(struct obd_output *output, size_t count, struct obd_error *err)
{
	output->used += count;
	output->size += count;
	return output->used == BUFFER ? hand_over(output, err) : 0;
}

int obd_output_write(struct obd_output *output, const void *buf, size_t count, struct obd_error *err)
{
	const uint8_t *from = buf;

	while (count) {
		const size_t room = BUFFER - output->used;
		const size_t part = count < room ? count : room;

		int r;

		memcpy(buffer_of(output, output->filling) + output->used, from, part);
		r = obd_output_advance(output, part, err);
		if (r)
			return r;
		from += part;
		count -= part;
	}
	return 0;
}

void obd_output_head(struct obd_output *output, const void *buf, size_t count)
{
	memcpy(output->head, buf, count);
	output->head_count = count;
}

uint64_t obd_output_size(const struct obd_output *output)
{
	return output->size - base_of(output);
}

/* ---- names ---- */

static int split_path(struct obd_output *output, const char *path, struct obd_error *err)
{
	const char *slash = strrchr(path, '/');

	output->path = strdup(path);
	output->folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	return output->path && output->folder ? 0 : obd_fail(err, ENOMEM, "%s: no memory", path);
}

/** The name a file has until it has its own; of this process, so that two never meet. */
static char *temporary_name(const struct obd_output *output)
{
	char *name = NULL;

	return asprintf(&name, "%s.tmp.%d", output->path, (int)getpid()) < 0 ? NULL : name;
}

/** A file without a name, which can be given one: for that its descriptor has to be reachable as a path. */
static int open_nameless(const struct obd_output *output)
{
	int fd = open(output->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, output->mode);
	char link[32];

	if (fd < 0)
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (!access(link, F_OK))
		return fd;
	close(fd);
	return -1;
}

static int open_file(struct obd_output *output, struct obd_error *err)
{
	struct stat st;

	if (!lstat(output->path, &st) && !output->replace)
		return obd_fail(err, EEXIST, "%s: %s", output->path, strerror(EEXIST));
	if (!stat(output->path, &st) && !S_ISREG(st.st_mode))
		return obd_fail(err, EINVAL, "%s: exists and is not a regular file", output->path);
	output->fd = open_nameless(output);
	if (output->fd < 0) {
		output->temporary = temporary_name(output);
		if (!output->temporary)
			return obd_fail(err, ENOMEM, "%s: no memory", output->path);
		output->fd = open(output->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, output->mode);
		if (output->fd < 0) {
			const int code = errno;

			free(output->temporary);
			output->temporary = NULL;
			return obd_fail(err, code, "%s: %s", output->path, strerror(code));
		}
	}
	output->direct = !fcntl(output->fd, F_SETFL, O_DIRECT);
	return 0;
}

static int output_init(struct obd_output *output, const struct obd_output_options *options, struct obd_error *err)
{
	int r = split_path(output, options->path, err);

	if (r)
		return r;
	output->replace = options->replace;
	output->tar = options->tar;
	output->mode = options->mode;
	output->memory = aligned_alloc(BUFFER, (size_t)BUFFERS * BUFFER);
	if (!output->memory)
		return obd_fail(err, ENOMEM, "%s: no memory", options->path);
	madvise(output->memory, (size_t)BUFFERS * BUFFER, MADV_HUGEPAGE);
	r = open_file(output, err);
	if (r)
		return r;
	// The headers are known when the size is; until then there are zeros.
	output->size = output->used = base_of(output);
	memset(output->memory, 0, output->used);
	return start_writer(output, err);
}

int obd_output_create(const struct obd_output_options *options, struct obd_output **ret, struct obd_error *err)
{
	struct obd_output *output = calloc(1, sizeof(*output));
	int r;

	if (!output)
		return obd_fail(err, ENOMEM, "%s: no memory", options->path);
	output->fd = -1;
	pthread_mutex_init(&output->lock, NULL);
	pthread_cond_init(&output->changed, NULL);
	r = output_init(output, options, err);
	if (r) {
		obd_output_destroy(output);
		return r;
	}
	*ret = output;
	return 0;
}

int obd_output_scratch(const struct obd_output *output, struct obd_error *err)
{
	char *name = NULL;
	int fd = open(output->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), code = errno;

	if (fd >= 0)
		return fd;
	if (asprintf(&name, "%s.index.%d", output->path, (int)getpid()) < 0)
		return obd_fail(err, ENOMEM, "%s: no memory", output->path);
	fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	code = errno;
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd >= 0 ? fd : obd_fail(err, code, "%s: a file for its index: %s", output->path, strerror(code));
}

/* ---- publishing ---- */

/** Writes what is not aligned: the last buffer, and what was left open at the beginning. */
static int write_rest(struct obd_output *output, struct obd_error *err)
{
	uint8_t headers[OBD_TAR_HEADERS];
	int r;

	clear_direct(output);
	r = write_at(output, buffer_of(output, output->filling), output->used, output->written, err);
	if (!r && output->head_count)
		r = write_at(output, output->head, output->head_count, base_of(output), err);
	if (r || !output->tar)
		return r;
	obd_tar_headers(headers, obd_output_size(output));
	r = write_at(output, headers, sizeof(headers), 0, err);
	// Zeros to the next block and two blocks of them are the end of a tar; a hole reads as zeros.
	if (!r && ftruncate(output->fd, (off_t)obd_tar_size(obd_output_size(output))))
		r = write_failed(output, errno, output->size, err);
	return r;
}

static int link_to(const struct obd_output *output, const char *name)
{
	char link[32];

	if (output->temporary)
		return linkat(AT_FDCWD, output->temporary, AT_FDCWD, name, 0);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", output->fd);
	return linkat(AT_FDCWD, link, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/** A name of its own, where there must be none yet. */
static int name_new(struct obd_output *output)
{
	if (!link_to(output, output->path)) {
		if (output->temporary)
			unlink(output->temporary);
		return 0;
	}
	// File systems without links: the name may be taken in between, then it was not there when we looked.
	if (output->temporary && (errno == EPERM || errno == EOPNOTSUPP || errno == EMLINK))
		return renameat2(AT_FDCWD, output->temporary, AT_FDCWD, output->path, RENAME_NOREPLACE);
	return -1;
}

/** In the place of what has the name now, in one step. */
static int name_replacing(struct obd_output *output)
{
	if (!output->temporary) {
		char *name = temporary_name(output);

		if (!name)
			return -1;
		unlink(name); // of a process of this number that was killed between the next two steps
		if (link_to(output, name)) {
			free(name);
			return -1;
		}
		output->temporary = name;
	}
	return rename(output->temporary, output->path);
}

static int sync_folder(const struct obd_output *output)
{
	int fd = open(output->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = fsync(fd);
	if (r && errno == EINVAL) // this file system's folders cannot be synced
		r = 0;
	close(fd);
	return r;
}

static int publish(struct obd_output *output, struct obd_error *err)
{
	int r = write_rest(output, err);

	if (r)
		return r;
	if (fsync(output->fd))
		return obd_fail(err, errno, "%s: fsync: %s", output->path, strerror(errno));
	if (output->replace ? name_replacing(output) : name_new(output))
		return obd_fail(err, errno, "%s: giving it its name: %s", output->path, strerror(errno));
	free(output->temporary);
	output->temporary = NULL;
	if (sync_folder(output))
		return obd_fail(err, errno, "%s: fsync of its folder: %s", output->path, strerror(errno));
	return 0;
}

int obd_output_publish(struct obd_output *output, struct obd_error *err)
{
	join_writer(output);
	if (output->error.code) {
		if (err)
			*err = output->error;
		return -output->error.code;
	}
	return publish(output, err);
}

void obd_output_destroy(struct obd_output *output)
{
	if (!output)
		return;
	join_writer(output);
	if (output->fd >= 0)
		close(output->fd);
	if (output->temporary)
		unlink(output->temporary);
	free(output->temporary);
	free(output->memory);
	free(output->path);
	free(output->folder);
	pthread_cond_destroy(&output->changed);
	pthread_mutex_destroy(&output->lock);
	free(output);
}
