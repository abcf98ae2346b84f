/* SPDX-License-Identifier: Apache-2.0 */
#include "blob.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cachefile.h"
#include "error.h"
#include "miss.h"
#include "pages.h"

/** Size of what fd is, or -errno: a layer is a regular file or a block device, nothing else has bytes at offsets. */
static int64_t size_of(int fd, const struct stat *st, const char *path, struct obd_error *err)
{
	off_t end;

	if (S_ISREG(st->st_mode))
		return st->st_size;
	if (S_ISDIR(st->st_mode))
		return obd_fail(err, EISDIR, "%s: is a directory", path);
	if (!S_ISBLK(st->st_mode))
		return obd_fail(err, EINVAL, "%s: is neither a regular file nor a block device", path);
	end = lseek(fd, 0, SEEK_END);
	if (end < 0)
		return obd_fail(err, errno, "%s: size of the block device: %s", path, strerror(errno));
	return end;
}

static bool has_nowait(int fd)
{
	char byte;
	struct iovec iov = {&byte, 1};

	// EAGAIN says that the byte is not in the page cache, hence that the flag was understood.
	return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

static bool in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

void obd_blob_probe(int fd, bool *nowait, bool *memory)
{
	struct stat st;

	*nowait = has_nowait(fd);
	*memory = !fstat(fd, &st) && S_ISREG(st.st_mode) && in_memory(fd);
}

/** -1 when the file system has no O_DIRECT, or when path has become another file since st was taken. */
static int open_direct(const char *path, const struct stat *st)
{
	struct stat now;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!fstat(fd, &now) && now.st_dev == st->st_dev && now.st_ino == st->st_ino && now.st_rdev == st->st_rdev)
		return fd;
	close(fd);
	return -1;
}

static int blob_init(struct obd_blob *blob, const char *path, uint32_t flags, struct obd_error *err)
{
	struct stat st;
	int64_t size;

	// Without O_NONBLOCK a FIFO would keep us until somebody writes to it.
	blob->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (blob->fd < 0)
		return obd_fail(err, errno, "%s: %s", path, strerror(errno));
	if (fstat(blob->fd, &st))
		return obd_fail(err, errno, "%s: fstat: %s", path, strerror(errno));
	size = size_of(blob->fd, &st, path, err);
	if (size < 0)
		return (int)size;
	blob->size = (uint64_t)size;
	blob->path = strdup(path);
	if (!blob->path)
		return obd_fail(err, ENOMEM, "%s: no memory", path);
	if (flags & OBD_BLOB_DIRECT)
		blob->direct_fd = open_direct(path, &st);
	obd_blob_probe(blob->fd, &blob->nowait, &blob->memory);
	return 0;
}

int obd_blob_open(const char *path, uint32_t flags, struct obd_blob **ret, struct obd_error *err)
{
	struct obd_blob *blob;
	int r;

	if (flags & ~OBD_BLOB_DIRECT)
		return obd_fail(err, EINVAL, "%s: flags 0x%x are not known", path, flags);
	blob = calloc(1, sizeof(*blob));
	if (!blob)
		return obd_fail(err, ENOMEM, "%s: no memory", path);
	blob->fd = blob->direct_fd = -1;
	r = blob_init(blob, path, flags, err);
	if (r) {
		obd_blob_close(blob);
		return r;
	}
	*ret = blob;
	return 0;
}

void obd_blob_close(struct obd_blob *blob)
{
	if (!blob)
		return;
	if (blob->cache) {
		obd_cachefile_close(blob->cache);
	} else {
		obd_pages_destroy(blob->pages);
		if (blob->fd >= 0)
			close(blob->fd);
	}
	if (blob->direct_fd >= 0)
		close(blob->direct_fd);
	free(blob->path);
	free(blob);
}

int64_t obd_preadv_all(int fd, struct iovec *list, int used, uint64_t count, uint64_t offset)
{
	const uint64_t wanted = count;

	while (count) {
		ssize_t r = preadv(fd, list, used, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (!r)
			break;
		count -= (uint64_t)r;
		offset += (uint64_t)r;
		while (r > 0 && (size_t)r >= list->iov_len) {
			r -= (ssize_t)list->iov_len;
			list++;
			used--;
		}
		if (r > 0) {
			list->iov_base = (uint8_t *)list->iov_base + r;
			list->iov_len -= (size_t)r;
		}
	}
	return (int64_t)(wanted - count);
}

int obd_blob_pread(const struct obd_blob *blob, void *buf, size_t count, uint64_t offset)
{
	struct iovec list = {buf, count};
	uint64_t end;
	int64_t r;

	if (__builtin_add_overflow(offset, count, &end) || end > INT64_MAX)
		return -EIO;
	if (blob->cache)
		return end > blob->size ? -EIO : count ? obd_miss_pread(blob, buf, count, offset) : 0;
	r = obd_preadv_all(blob->fd, &list, 1, count, offset);
	if (r < 0)
		return (int)r;
	return r == (int64_t)count ? 0 : -EIO;
}
