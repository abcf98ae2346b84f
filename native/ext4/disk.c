/* SPDX-License-Identifier: Apache-2.0 */
/* A plain file or a block device as a disk. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../error.h"
#include "obd_ext4.h"

static int descriptor(const void *handle)
{
	return (int)(intptr_t)handle;
}

static int64_t file_pread(void *handle, void *buf, size_t count, uint64_t offset)
{
	size_t done = 0;

	while (done < count) {
		const ssize_t n = pread(descriptor(handle), (uint8_t *)buf + done, count - done,
					(off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO; // somebody truncates the file
		done += (size_t)n;
	}
	return (int64_t)done;
}

static int64_t file_pwrite(void *handle, const void *buf, size_t count, uint64_t offset)
{
	size_t done = 0;

	while (done < count) {
		const ssize_t n = pwrite(descriptor(handle), (const uint8_t *)buf + done, count - done,
					 (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return (int64_t)done;
}

static int file_flush(void *handle)
{
	return fdatasync(descriptor(handle)) ? -errno : 0;
}

static int file_discard(void *handle, uint64_t offset, uint64_t count)
{
	const int fd = descriptor(handle);
	static const uint8_t zeros[64 * 1024];
	uint64_t range[2] = {offset, count};
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (S_ISBLK(st.st_mode))
		return ioctl(fd, BLKZEROOUT, range) ? -errno : 0;
	if (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count))
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	while (count) {
		const size_t part = count < sizeof(zeros) ? (size_t)count : sizeof(zeros);
		const int64_t n = file_pwrite(handle, zeros, part, offset);

		if (n < 0)
			return (int)n;
		offset += part;
		count -= part;
	}
	return 0;
}

int obd_ext4_disk_of_fd(int fd, struct obd_ext4_disk *ret, struct obd_error *err)
{
	struct stat st;
	off_t size;

	if (fstat(fd, &st))
		return obd_fail(err, errno, "fstat: %s", strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return obd_fail(err, EINVAL, "is neither a regular file nor a block device");
	size = S_ISREG(st.st_mode) ? st.st_size : lseek(fd, 0, SEEK_END);
	if (size < 0)
		return obd_fail(err, errno, "size of the block device: %s", strerror(errno));
	*ret = (struct obd_ext4_disk){
		.handle = (void *)(intptr_t)fd,
		.pread = file_pread,
		.pwrite = file_pwrite,
		.flush = file_flush,
		.discard = file_discard,
		.size = (uint64_t)size,
	};
	return 0;
}
