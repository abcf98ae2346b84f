/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a process: something happens at the nth call that changes a file of one folder. nth_call.py compiles
 * it.
 *
 *     $NTH_FOLDER   only files and names below it count
 *     $NTH_LOG      every counted call is logged there, a line each
 *     $NTH          which one, from 1 on; 0: none
 *     $NTH_ERROR    the errno it fails with; 0: the process is killed before it
 *     $NTH_ONLY     only calls of this name count
 *     $NTH_REFUSE   "nameless" and "direct" are what the file system cannot do, from the first call on
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int count;

/* Programs that this one starts are not meant. */
__attribute__((constructor)) static void only_here(void)
{
	unsetenv("LD_PRELOAD");
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "";
}

static void log_call(const char *name)
{
	int fd = REAL(open)(variable("NTH_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (fd < 0)
		return;
	dprintf(fd, "%s\n", name);
	close(fd);
}

/* 0: go on; else the call fails, errno is set. */
static int happens(const char *name, const char *path)
{
	const char *folder = variable("NTH_FOLDER"), *only = variable("NTH_ONLY");
	int n, error = atoi(variable("NTH_ERROR"));

	if (!*folder || strncmp(path, folder, strlen(folder)) || (*only && strcmp(only, name)))
		return 0;
	pthread_mutex_lock(&lock);
	n = ++count;
	log_call(name);
	pthread_mutex_unlock(&lock);
	if (n != atoi(variable("NTH")))
		return 0;
	if (!error)
		kill(getpid(), SIGKILL);
	errno = error;
	return -1;
}

static int happens_to(const char *name, int fd)
{
	char link[64], path[4096];
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	path[length < 0 ? 0 : length] = 0;
	return happens(name, path);
}

ssize_t pwrite(int fd, const void *buf, size_t size, off_t offset)
{
	return happens_to("pwrite", fd) ? -1 : REAL(pwrite)(fd, buf, size, offset);
}

ssize_t write(int fd, const void *buf, size_t size)
{
	return happens_to("write", fd) ? -1 : REAL(write)(fd, buf, size);
}

int ftruncate(int fd, off_t size)
{
	return happens_to("ftruncate", fd) ? -1 : REAL(ftruncate)(fd, size);
}

int fsync(int fd)
{
	return happens_to("fsync", fd) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd)
{
	return happens_to("fdatasync", fd) ? -1 : REAL(fdatasync)(fd);
}

int link(const char *from, const char *to)
{
	return happens("link", to) ? -1 : REAL(link)(from, to);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
	return happens("linkat", to) ? -1 : REAL(linkat)(from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to)
{
	return happens("rename", to) ? -1 : REAL(rename)(from, to);
}

int unlink(const char *path)
{
	return happens("unlink", path) ? -1 : REAL(unlink)(path);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	if ((flags & O_TMPFILE) == O_TMPFILE && strstr(variable("NTH_REFUSE"), "nameless")) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (flags & O_CREAT && happens("open", path))
		return -1;
	return REAL(open)(path, flags, mode);
}

int fcntl(int fd, int command, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, command);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (command == F_SETFL && (long)argument & O_DIRECT && strstr(variable("NTH_REFUSE"), "direct")) {
		errno = EINVAL;
		return -1;
	}
	return REAL(fcntl)(fd, command, argument);
}
