/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a process: logs what it does to files of one folder, in the order it happens, and fails it on demand.
 * disk_log.py compiles it, reads the log, and turns it into what a disk may hold after a power cut.
 *
 *     $DISK_LOG_FOLDER   only files below it
 *     $DISK_LOG          where records go: {op, length of what follows, inode, offset, count} and the written bytes
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { WRITE = 1, TRUNCATE, PUNCH, SYNC, RENAME, MARK };

struct record {
	uint32_t op, length;
	uint64_t inode, offset, count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;

/* The fault: of those operations on files whose name ends so, the one after skip fails, and every later one if asked. */
static struct {
	enum op op;
	char suffix[64];
	int error, skip, repeat;
	uint64_t partly; /* bytes of a write that happen first */
	uint64_t least;	 /* only writes of so many bytes */
} fault;

static void *real(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static int is_ours(int fd, char *path, size_t size)
{
	static const char *folder;
	char link[64];
	ssize_t length;

	if (!folder)
		folder = getenv("DISK_LOG_FOLDER");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, size - 1);
	if (!folder || length < 0)
		return 0;
	path[length] = 0;
	return !strncmp(path, folder, strlen(folder));
}

static void put(enum op op, uint64_t inode, uint64_t offset, uint64_t count, const struct iovec *iov, int iov_count)
{
	struct record record = {op, 0, inode, offset, count};
	struct iovec list[1026] = {{&record, sizeof(record)}};
	uint64_t left = count;
	int used = 1;

	if (log_fd < 0)
		log_fd = open(getenv("DISK_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	for (int i = 0; i < iov_count && left; i++) {
		list[used] = iov[i];
		if (list[used].iov_len > left)
			list[used].iov_len = left;
		record.length += (uint32_t)list[used].iov_len;
		left -= list[used++].iov_len;
	}
	if (writev(log_fd, list, used) < 0)
		abort();
}

static uint64_t inode_of(int fd)
{
	struct stat st;

	fstat(fd, &st);
	return st.st_ino;
}

/* The lock is held. 0, or -1 with errno. */
static int faulty(enum op op, const char *path, uint64_t count)
{
	size_t length = strlen(path), suffix = strlen(fault.suffix);

	if (fault.op != op || count < fault.least || length < suffix || strcmp(path + length - suffix, fault.suffix) != 0)
		return 0;
	if (fault.skip-- > 0)
		return 0;
	errno = fault.error;
	if (!fault.repeat)
		fault.op = 0;
	else
		fault.skip = 0;
	return -1;
}

void disk_log_fault(int op, const char *suffix, int error, int skip, int repeat, uint64_t partly,
		    uint64_t least)
{
	pthread_mutex_lock(&lock);
	fault.op = op;
	snprintf(fault.suffix, sizeof(fault.suffix), "%s", suffix);
	fault.error = error;
	fault.skip = skip;
	fault.repeat = repeat;
	fault.partly = partly;
	fault.least = least;
	pthread_mutex_unlock(&lock);
}

static unsigned delay_ms; /* atomic */

/* Every write takes so long, and holds up no other. */
void disk_log_delay(unsigned ms)
{
	__atomic_store_n(&delay_ms, ms, __ATOMIC_RELAXED);
}

void disk_log_mark(const char *text)
{
	struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};

	pthread_mutex_lock(&lock);
	put(MARK, 0, 0, iov.iov_len, &iov, 1);
	pthread_mutex_unlock(&lock);
}

static ssize_t write_at(int fd, const struct iovec *iov, int count, off_t offset)
{
	ssize_t (*next)(int, const struct iovec *, int, off_t) = real("pwritev");
	uint64_t total = 0;
	char path[4096];
	ssize_t r;

	if (!is_ours(fd, path, sizeof(path)))
		return next(fd, iov, count, offset);
	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	usleep(__atomic_load_n(&delay_ms, __ATOMIC_RELAXED) * 1000);
	pthread_mutex_lock(&lock);
	if (faulty(WRITE, path, total)) {
		const int error = errno;
		struct iovec part = iov[0];

		r = -1;
		if (part.iov_len > fault.partly)
			part.iov_len = fault.partly;
		if (part.iov_len && next(fd, &part, 1, offset) > 0)
			put(WRITE, inode_of(fd), (uint64_t)offset, part.iov_len, &part, 1);
		errno = error;
	} else {
		r = next(fd, iov, count, offset);
		if (r > 0)
			put(WRITE, inode_of(fd), (uint64_t)offset, (uint64_t)r, iov, count);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	return write_at(fd, iov, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset)
{
	return write_at(fd, iov, count, offset);
}

ssize_t pwrite(int fd, const void *buf, size_t count, off_t offset)
{
	struct iovec iov = {(void *)(uintptr_t)buf, count};

	return write_at(fd, &iov, 1, offset);
}

ssize_t pwrite64(int fd, const void *buf, size_t count, off_t offset)
{
	return pwrite(fd, buf, count, offset);
}

int ftruncate(int fd, off_t size)
{
	int (*next)(int, off_t) = real("ftruncate");
	char path[4096];
	int r;

	if (!is_ours(fd, path, sizeof(path)))
		return next(fd, size);
	pthread_mutex_lock(&lock);
	r = faulty(TRUNCATE, path, 0) ? -1 : next(fd, size);
	if (!r)
		put(TRUNCATE, inode_of(fd), (uint64_t)size, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return r;
}

int ftruncate64(int fd, off_t size)
{
	return ftruncate(fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t count)
{
	int (*next)(int, int, off_t, off_t) = real("fallocate");
	char path[4096];
	int r;

	if (!is_ours(fd, path, sizeof(path)))
		return next(fd, mode, offset, count);
	pthread_mutex_lock(&lock);
	r = faulty(PUNCH, path, 0) ? -1 : next(fd, mode, offset, count);
	if (!r)
		put(PUNCH, inode_of(fd), (uint64_t)offset, (uint64_t)count, NULL, 0);
	pthread_mutex_unlock(&lock);
	return r;
}

int fallocate64(int fd, int mode, off_t offset, off_t count)
{
	return fallocate(fd, mode, offset, count);
}

static int sync_file(int fd, const char *name)
{
	int (*next)(int) = real(name);
	char path[4096];
	int r;

	if (!is_ours(fd, path, sizeof(path)))
		return next(fd);
	pthread_mutex_lock(&lock);
	/* what the test machine's disk does takes no part: the log says what is durable, and is quicker */
	r = faulty(SYNC, path, 0);
	if (!r)
		put(SYNC, inode_of(fd), 0, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return r;
}

int fdatasync(int fd)
{
	return sync_file(fd, "fdatasync");
}

int fsync(int fd)
{
	return sync_file(fd, "fsync");
}

/* The new name, without its folder. */
static void put_rename(const char *to)
{
	const char *slash = strrchr(to, '/'), *name = slash ? slash + 1 : to;
	struct iovec iov = {(void *)(uintptr_t)name, strlen(name)};
	struct stat st = {0};

	stat(to, &st);
	put(RENAME, st.st_ino, 0, iov.iov_len, &iov, 1);
}

int rename(const char *from, const char *to)
{
	int (*next)(const char *, const char *) = real("rename");
	int r;

	pthread_mutex_lock(&lock);
	/* the file that goes is held for good: the next new one would have its inode number, and in the log its content */
	open(to, O_PATH | O_CLOEXEC);
	r = faulty(RENAME, from, 0) ? -1 : next(from, to);
	if (!r)
		put_rename(to);
	pthread_mutex_unlock(&lock);
	return r;
}
