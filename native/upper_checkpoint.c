/* SPDX-License-Identifier: Apache-2.0 */
#include "upper_checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crc32c.h"
#include "full_io.h"
#include "little_endian.h"
#include "lsmt_record.h"
#include "obd_test.h"

enum { FIRST = 2048, SUMMED = 64, CHUNK = 64 * 1024 };

static const char magic[8] = {'O', 'B', 'D', 'C', 'H', 'K', 'P', 'T'};

uint64_t obd_checkpoint_offset(uint64_t sequence)
{
	return FIRST + (sequence & 1) * OBD_CHECKPOINT_SECTOR;
}

void obd_checkpoint_fill(uint8_t *to, const struct obd_checkpoint *checkpoint)
{
	memset(to, 0, OBD_CHECKPOINT_SECTOR);
	memcpy(to, magic, sizeof(magic));
	obd_put_le64(to, 8, checkpoint->sequence);
	obd_put_le64(to, 16, checkpoint->index_end);
	obd_put_le64(to, 24, checkpoint->data_end);
	obd_put_le64(to, 32, checkpoint->index_begin);
	memcpy(to + 40, checkpoint->boot, sizeof(checkpoint->boot));
	obd_put_le32(to, 56, checkpoint->state);
	obd_put_le32(to, 60, checkpoint->entries_crc);
	obd_put_le32(to, SUMMED, obd_crc32c(to, SUMMED, 0));
}

static bool parse(const uint8_t *from, unsigned place, struct obd_checkpoint *ret)
{
	if (memcmp(from, magic, sizeof(magic)) != 0 || obd_le32(from, SUMMED) != obd_crc32c(from, SUMMED, 0))
		return false;
	ret->sequence = obd_le64(from, 8);
	ret->index_end = obd_le64(from, 16);
	ret->data_end = obd_le64(from, 24);
	ret->index_begin = obd_le64(from, 32);
	memcpy(ret->boot, from + 40, sizeof(ret->boot));
	ret->state = obd_le32(from, 56);
	ret->entries_crc = obd_le32(from, 60);
	return (ret->sequence & 1) == place && ret->index_begin >= OBD_LSMT_RECORD &&
	       ret->index_begin <= ret->index_end && (ret->index_end - OBD_LSMT_RECORD) % OBD_LSMT_ENTRY == 0 &&
	       ret->data_end >= OBD_LSMT_RECORD && ret->data_end % OBD_SECTOR == 0;
}

int obd_checkpoint_crc(int index_fd, uint64_t from, uint64_t to, uint32_t *ret)
{
	uint8_t *buffer;
	uint32_t crc = 0;
	int r = 0;

	*ret = 0;
	if (from == to)
		return 0;
	buffer = malloc(CHUNK);
	if (!buffer)
		return -ENOMEM;
	while (from < to && !r) {
		size_t count = to - from < CHUNK ? (size_t)(to - from) : CHUNK;

		r = obd_pread_full(index_fd, buffer, count, from);
		if (!r)
			crc = obd_crc32c(buffer, count, crc);
		from += count;
	}
	free(buffer);
	*ret = crc;
	return r;
}

/* 1: the entries that checkpoint is about are all in the file. 0: they are not. */
static int entries_are_there(int index_fd, const struct obd_checkpoint *checkpoint)
{
	off_t size = lseek(index_fd, 0, SEEK_END);
	uint32_t crc;
	int r;

	if (size < 0)
		return -errno;
	if ((uint64_t)size < checkpoint->index_end)
		return 0;
	r = obd_checkpoint_crc(index_fd, checkpoint->index_begin, checkpoint->index_end, &crc);
	return r ? r : crc == checkpoint->entries_crc;
}

int obd_checkpoint_latest(const uint8_t *header, int index_fd, struct obd_checkpoint *ret)
{
	struct obd_checkpoint found[2];
	bool whole[2];
	unsigned latest;

	for (unsigned place = 0; place < 2; place++)
		whole[place] = parse(header + obd_checkpoint_offset(place), place, &found[place]);
	latest = whole[1] && (!whole[0] || found[1].sequence > found[0].sequence);
	/* the later one's flush may have been cut short; the one before it was complete when that began */
	for (unsigned i = 0; i < 2; i++, latest ^= 1) {
		int r = whole[latest] ? entries_are_there(index_fd, &found[latest]) : 0;

		if (r > 0)
			*ret = found[latest];
		if (r)
			return r;
	}
	return 0;
}

/* ---- boots ---- */

static uint8_t pretended[16]; /* by tests */
static bool pretending;

void obd_test_upper_boot(const uint8_t *boot)
{
	pretending = boot != NULL;
	if (boot)
		memcpy(pretended, boot, sizeof(pretended));
}

void obd_checkpoint_boot(uint8_t *ret)
{
	char text[40];
	ssize_t count;
	size_t used = 0;
	int fd;

	memset(ret, 0, 16);
	if (pretending) {
		memcpy(ret, pretended, sizeof(pretended));
		return;
	}
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	count = read(fd, text, sizeof(text));
	close(fd);
	for (ssize_t i = 0; i < count && used < 32; i++) {
		unsigned digit;

		if (text[i] >= '0' && text[i] <= '9')
			digit = (unsigned)(text[i] - '0');
		else if (text[i] >= 'a' && text[i] <= 'f')
			digit = (unsigned)(text[i] - 'a' + 10);
		else
			continue;
		ret[used / 2] |= (uint8_t)(used % 2 ? digit : digit << 4);
		used++;
	}
}

bool obd_checkpoint_same_boot(const struct obd_checkpoint *checkpoint)
{
	static const uint8_t unknown[16];
	uint8_t now[16];

	obd_checkpoint_boot(now);
	return memcmp(now, unknown, sizeof(now)) != 0 && memcmp(now, checkpoint->boot, sizeof(now)) == 0;
}
