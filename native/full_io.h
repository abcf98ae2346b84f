/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_FULL_IO_H
#define OBD_FULL_IO_H
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* All of it or an error: what pread and pwrite promise only for most files. 0 or -errno. */

/** -EIO when the file ends before. */
static inline int obd_pread_full(int fd, void *buf, size_t count, uint64_t offset)
{
	uint8_t *to = buf;

	while (count) {
		ssize_t r = pread(fd, to, count, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		to += r;
		count -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

static inline int obd_pwrite_full(int fd, const void *buf, size_t count, uint64_t offset)
{
	const uint8_t *from = buf;

	while (count) {
		ssize_t r = pwrite(fd, from, count, (off_t)offset);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r ? -errno : -EIO;
		from += r;
		count -= (size_t)r;
		offset += (uint64_t)r;
	}
	return 0;
}

#endif
