/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stands in for libtcmu.so.2, so that the real daemon runs where there is no TCMU: same names, same struct of
 * callbacks, devices made of a socket pair and a memory file.
 *
 * A test talks to it by datagrams to $FAKE_TCMU_SOCKET, which is also the master fd, and gets one back for each:
 *
 *	add CFGSTRING		the device's number, or -errno as the kernel would see it
 *	remove NUMBER		0, once removed() has returned and the memory is unmapped; at once for a device that is
 *				still being added: as the real one, we do not know it yet and tell nobody
 *	reconfig NUMBER TYPE VALUE	what the handler answered
 *	attach NUMBER		"0", and with it descriptors: the memory, and the kernel's end of the events
 *	reject CFGSTRING	why check_config refuses it, empty when it does not
 *
 * $FAKE_TCMU_ADOPT lists configuration strings, a line each, of devices that are live already. $FAKE_TCMU_STUCK makes
 * tcmulib_close() wait for ever, as it does for a command that never completes.
 *
 * As in the real one nothing is locked, a device is in the table only after added() and until removed(), and a message
 * is off the socket before its callback is called. Two threads that are in here at once, callbacks aside, abort.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_DEVICES = 256, RING = 64 << 10, DATA = 1 << 20, MAILBOX = 128 };

struct tcmu_device {
	int fd, peer, memory;
	void *map;
	size_t size;
	char cfgstring[256], uio_name[16];
};

struct tcmulib_cfg_info {
	int type;
	uint64_t value;
};

struct tcmulib_handler {
	const char *name, *subtype, *cfg_desc;
	void *ctx;
	bool (*check_config)(const char *cfgstring, char **reason);
	int (*reconfig)(struct tcmu_device *dev, struct tcmulib_cfg_info *cfg);
	bool (*update_logdir)(void);
	int (*added)(struct tcmu_device *dev);
	void (*removed)(struct tcmu_device *dev);
	void *hm_private, *connection;
};

struct tcmulib_context {
	struct tcmulib_handler handler;
	int fd;
	struct tcmu_device *devices[MAX_DEVICES]; /* what is known, by number */
	struct tcmu_device *adding[MAX_DEVICES];
};

static atomic_flag inside = ATOMIC_FLAG_INIT;

static void enter(void)
{
	if (atomic_flag_test_and_set(&inside)) {
		fprintf(stderr, "fake_libtcmu: two threads at once\n");
		abort();
	}
}

static void leave(void)
{
	atomic_flag_clear(&inside);
}

struct mailbox {
	uint16_t version, flags;
	uint32_t cmdr_off, cmdr_size, cmd_head;
};

static void device_free(struct tcmu_device *dev)
{
	munmap(dev->map, dev->size);
	close(dev->fd);
	close(dev->peer);
	close(dev->memory);
	free(dev);
}

static struct tcmu_device *device_new(const char *cfgstring, int number)
{
	struct tcmu_device *dev = calloc(1, sizeof(*dev));
	int memory = memfd_create("ring", MFD_CLOEXEC), ends[2];

	dev->size = RING + DATA;
	if (ftruncate(memory, (off_t)dev->size) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends))
		abort();
	dev->map = mmap(NULL, dev->size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	dev->memory = memory;
	dev->fd = ends[0];
	dev->peer = ends[1];
	*(struct mailbox *)dev->map = (struct mailbox){2, 1, MAILBOX, RING - MAILBOX, 0};
	snprintf(dev->cfgstring, sizeof(dev->cfgstring), "%s", cfgstring);
	snprintf(dev->uio_name, sizeof(dev->uio_name), "uio%d", number);
	return dev;
}

static int device_add(struct tcmulib_context *ctx, const char *cfgstring)
{
	struct tcmu_device *dev;
	int number = 0, r;
	char *reason = NULL;

	while (ctx->devices[number] || ctx->adding[number])
		number++;
	if (!ctx->handler.check_config(cfgstring, &reason)) {
		free(reason);
		return -ENOENT;
	}
	ctx->adding[number] = dev = device_new(cfgstring, number);
	leave();
	r = ctx->handler.added(dev);
	enter();
	ctx->adding[number] = NULL;
	if (r == 0) {
		ctx->devices[number] = dev;
		return number;
	}
	device_free(dev);
	return -ENOENT;
}

static void device_remove(struct tcmulib_context *ctx, int number)
{
	struct tcmu_device *dev = ctx->devices[number];

	if (!dev) {
		if (ctx->adding[number])
			shutdown(ctx->adding[number]->peer, SHUT_RDWR);
		return;
	}
	ctx->devices[number] = NULL;
	leave();
	ctx->handler.removed(dev);
	enter();
	device_free(dev);
}

struct tcmulib_context *tcmulib_initialize(struct tcmulib_handler *handlers, size_t count)
{
	struct tcmulib_context *ctx = calloc(1, sizeof(*ctx));
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *adopt = getenv("FAKE_TCMU_ADOPT");

	if (count != 1 || strcmp(handlers[0].subtype, "overlaybd"))
		return NULL;
	ctx->handler = handlers[0];
	ctx->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", getenv("FAKE_TCMU_SOCKET"));
	if (bind(ctx->fd, (struct sockaddr *)&address, sizeof(address)))
		return NULL;
	enter();
	for (char *line = adopt ? strtok(strdup(adopt), "\n") : NULL; line; line = strtok(NULL, "\n"))
		device_add(ctx, line);
	leave();
	return ctx;
}

void tcmulib_close(struct tcmulib_context *ctx)
{
	while (getenv("FAKE_TCMU_STUCK"))
		pause();
	enter();
	for (int number = 0; number < MAX_DEVICES; number++)
		if (ctx->devices[number])
			device_remove(ctx, number);
	leave();
	close(ctx->fd);
	free(ctx);
}

/* Answers with the descriptors beside the text. */
static void send_descriptors(const struct tcmulib_context *ctx, const struct tcmu_device *dev, struct sockaddr_un *to,
			     socklen_t length)
{
	const int fds[] = {dev->memory, dev->peer};
	union {
		char room[CMSG_SPACE(sizeof(fds))];
		struct cmsghdr align;
	} control = {0};
	struct iovec text = {"0", 1};
	struct msghdr message = {
		.msg_name = to,
		.msg_namelen = length,
		.msg_iov = &text,
		.msg_iovlen = 1,
		.msg_control = control.room,
		.msg_controllen = sizeof(control.room),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(header), fds, sizeof(fds));
	sendmsg(ctx->fd, &message, 0);
}

int tcmulib_get_master_fd(struct tcmulib_context *ctx)
{
	return ctx->fd;
}

int tcmulib_master_fd_ready(struct tcmulib_context *ctx)
{
	char request[512] = "", answer[512] = "?", *reason = NULL;
	struct sockaddr_un from;
	socklen_t length = sizeof(from);
	unsigned long long value;
	int number, type;

	enter();
	if (recvfrom(ctx->fd, request, sizeof(request) - 1, 0, (struct sockaddr *)&from, &length) < 0)
		abort();
	if (!strncmp(request, "add ", 4)) {
		snprintf(answer, sizeof(answer), "%d", device_add(ctx, request + 4));
	} else if (sscanf(request, "remove %d", &number) == 1) {
		device_remove(ctx, number);
		strcpy(answer, "0");
	} else if (sscanf(request, "reconfig %d %d %llu", &number, &type, &value) == 3) {
		struct tcmulib_cfg_info info = {type, value};
		int r;

		leave();
		r = ctx->handler.reconfig(ctx->devices[number], &info);
		enter();
		snprintf(answer, sizeof(answer), "%d", r);
	} else if (sscanf(request, "attach %d", &number) == 1) {
		send_descriptors(ctx, ctx->devices[number], &from, length);
		leave();
		return 0;
	} else if (!strncmp(request, "reject ", 7)) {
		answer[0] = 0;
		if (!ctx->handler.check_config(request + 7, &reason))
			snprintf(answer, sizeof(answer), "%s", reason);
		free(reason);
	}
	sendto(ctx->fd, answer, strlen(answer), 0, (struct sockaddr *)&from, length);
	leave();
	return 0;
}

int tcmu_dev_get_fd(struct tcmu_device *dev)
{
	return dev->fd;
}

const char *tcmu_dev_get_cfgstring(struct tcmu_device *dev)
{
	return dev->cfgstring;
}

const char *tcmu_dev_get_uio_name(struct tcmu_device *dev)
{
	return dev->uio_name;
}

char *tcmu_dev_get_memory_info(struct tcmu_device *dev, void **base, size_t *size, long *offset)
{
	*base = dev->map;
	*size = dev->size;
	if (offset)
		*offset = 0;
	return strdup(dev->uio_name);
}

int tcmu_cfgfs_dev_get_attr_int(struct tcmu_device *dev, const char *name)
{
	(void)dev;
	if (!strcmp(name, "hw_block_size"))
		return 512;
	return strcmp(name, "hw_max_sectors") ? -ENOENT : 128;
}

void tcmu_dev_set_block_size(struct tcmu_device *dev, uint32_t size)
{
	(void)dev, (void)size;
}

void tcmu_dev_set_num_lbas(struct tcmu_device *dev, uint64_t count)
{
	(void)dev, (void)count;
}

void tcmu_set_log_level(int level)
{
	(void)level;
}

bool tcmu_dev_oooc_supported(struct tcmu_device *dev)
{
	(void)dev;
	return true;
}
