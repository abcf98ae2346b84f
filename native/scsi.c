/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk's answers: INQUIRY, READ CAPACITY, MODE SENSE and SELECT, reads, changes, and refusals. What the kernel makes
 * of the disk (limits, discard, write cache, write protection, rotation) it concludes from these. REPORT LUNS, REQUEST
 * SENSE and reservations never arrive: the kernel's target core answers them.
 */
#include "scsi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "scsi_opcodes.h"

/* key << 16 | additional code << 8 | qualifier */
enum sense {
	WRITE_ERROR = 0x030c00,
	UNRECOVERED_READ_ERROR = 0x031100,
	PARAMETER_LIST_LENGTH = 0x051a00,
	INVALID_OPCODE = 0x052000,
	OUT_OF_RANGE = 0x052100,
	INVALID_FIELD_IN_CDB = 0x052400,
	INVALID_FIELD_IN_PARAMETERS = 0x052600,
	SAVING_NOT_SUPPORTED = 0x053900,
	CAPACITY_CHANGED = 0x062a09, /* a unit attention: the kernel makes an event of it, and repeats the command */
	WRITE_PROTECTED = 0x072700,
	NO_SPACE = 0x072707, /* the one the kernel makes ENOSPC of */
};

enum { SERIAL_MAX = 252, CFGSTRING_MAX = 251 }; /* a page's lengths are one byte */
enum { DISCARD_UNIT = 4096, REPEAT_MAX = 8192 };

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static inline uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static inline void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value);
}

static inline void put64(uint8_t *p, uint64_t value)
{
	put32(p, (uint32_t)(value >> 32));
	put32(p + 4, (uint32_t)value);
}

/* ---- answers ---- */

static void fill_sense(struct obd_scsi_answer *answer, enum sense sense)
{
	memset(answer, 0, sizeof(*answer));
	answer->status = OBD_SCSI_CHECK_CONDITION;
	answer->sense[0] = 0x70; /* current error, fixed format */
	answer->sense[2] = (uint8_t)(sense >> 16);
	answer->sense[7] = OBD_SCSI_SENSE - 8;
	answer->sense[12] = (uint8_t)(sense >> 8);
	answer->sense[13] = (uint8_t)sense;
}

static enum obd_scsi_verdict reject(struct obd_scsi_answer *answer, enum sense sense)
{
	fill_sense(answer, sense);
	return OBD_SCSI_REJECTED;
}

static enum obd_scsi_verdict good(struct obd_scsi_answer *answer)
{
	memset(answer, 0, sizeof(*answer));
	return OBD_SCSI_ANSWERED;
}

/* As much of data as the initiator has asked and has room for. */
static enum obd_scsi_verdict give(const struct obd_scsi_command *command, struct obd_scsi_answer *answer,
				  const uint8_t *data, size_t count, size_t allocated)
{
	const struct iovec *iov = command->iov;

	good(answer);
	if (count > allocated)
		count = allocated;
	if (count > command->data_count)
		count = (size_t)command->data_count;
	answer->read_count = (uint32_t)count;
	for (; count; iov++) {
		size_t part = iov->iov_len < count ? iov->iov_len : count;

		memcpy(iov->iov_base, data, part);
		data += part;
		count -= part;
	}
	return OBD_SCSI_ANSWERED;
}

void obd_scsi_read_failed(const struct obd_scsi *scsi, uint64_t offset, struct obd_scsi_answer *answer)
{
	const uint64_t block = offset / scsi->block_size;

	fill_sense(answer, UNRECOVERED_READ_ERROR);
	if (block <= UINT32_MAX) { /* the information field: where */
		answer->sense[0] |= 0x80;
		put32(answer->sense + 3, (uint32_t)block);
	}
}

void obd_scsi_change_failed(int code, struct obd_scsi_answer *answer)
{
	fill_sense(answer, code == ENOSPC || code == EDQUOT ? NO_SPACE : code == EROFS ? WRITE_PROTECTED : WRITE_ERROR);
}

/* ---- INQUIRY ---- */

/* The serial as configfs has it, "T10 VPD Unit Serial Number: <serial>"; its length, 0 when there is none. */
static size_t read_serial(const struct obd_scsi *scsi, char *serial)
{
	char text[64 + SERIAL_MAX];
	const char *start;
	ssize_t count;
	size_t length;
	int fd;

	if (!scsi->serial_path)
		return 0;
	fd = open(scsi->serial_path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	count = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (count <= 0)
		return 0;
	text[count] = 0;
	start = strstr(text, ": ");
	start = start ? start + 2 : text;
	length = strcspn(start, "\n");
	if (length > SERIAL_MAX)
		length = SERIAL_MAX;
	memcpy(serial, start, length);
	return length;
}

static size_t page_serial(const struct obd_scsi *scsi, uint8_t *page)
{
	size_t length = read_serial(scsi, (char *)page + 4);

	page[3] = (uint8_t)length;
	return 4 + length;
}

static unsigned hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a' + 10);
	if (c >= 'A' && c <= 'F')
		return (unsigned)(c - 'A' + 10);
	return 16;
}

/* NAA 6, the OUI of LIO, and the serial's hexadecimal digits: as the kernel's own backstores do it. */
static void fill_naa(uint8_t *naa, const char *serial, size_t length)
{
	static const uint8_t start[] = {0x60, 0x01, 0x40, 0x50};
	unsigned nibble = 7;

	memset(naa, 0, 16);
	memcpy(naa, start, sizeof(start));
	for (size_t i = 0; i < length && nibble < 32; i++) {
		unsigned digit = hex_digit(serial[i]);

		if (digit > 15)
			continue;
		naa[nibble / 2] |= (uint8_t)(nibble % 2 ? digit : digit << 4);
		nibble++;
	}
}

static uint8_t *designator(uint8_t *at, unsigned code_set, unsigned type, size_t length)
{
	at[0] = (uint8_t)code_set;
	at[1] = (uint8_t)type;
	at[2] = 0;
	at[3] = (uint8_t)length;
	return at + 4;
}

/*
 * Without a serial only the vendor's own designator is left: made-up world-wide names would be the same for every disk
 * of the host, and multipath takes such disks for one.
 */
static size_t page_identification(const struct obd_scsi *scsi, uint8_t *page)
{
	enum { BINARY = 1, ASCII = 2, VENDOR_SPECIFIC = 0, T10 = 1, NAA = 3 };
	char serial[SERIAL_MAX];
	size_t length = read_serial(scsi, serial), config = strnlen(scsi->cfgstring, CFGSTRING_MAX);
	uint8_t *at = page + 4;

	if (length) {
		size_t shown = length < 200 ? length : 200;

		at = designator(at, ASCII, T10, 8 + shown + 1);
		memcpy(at, "LIO-ORG ", 8);
		memcpy(at + 8, serial, shown);
		at[8 + shown] = 0;
		at += 8 + shown + 1;
		at = designator(at, BINARY, NAA, 16);
		fill_naa(at, serial, length);
		at += 16;
	}
	at = designator(at, ASCII, VENDOR_SPECIFIC, config + 1);
	memcpy(at, scsi->cfgstring, config);
	at[config] = 0;
	at += config + 1;
	put16(page + 2, (uint32_t)(at - page - 4));
	return (size_t)(at - page);
}

static size_t page_block_limits(const struct obd_scsi *scsi, uint8_t *page)
{
	put16(page + 2, 0x3c);
	page[4] = 1; /* WRITE SAME of no blocks is invalid */
	put32(page + 8, scsi->max_transfer / scsi->block_size);
	if (scsi->discard) {
		put32(page + 20, UINT32_MAX); /* blocks an UNMAP may name ... */
		put32(page + 24, 1);	      /* ... in one range */
		put32(page + 28, DISCARD_UNIT / scsi->block_size);
		put32(page + 32, UINT32_C(1) << 31); /* such units begin at block 0 */
	}
	if (!scsi->read_only)
		put64(page + 36, UINT32_MAX); /* blocks of a WRITE SAME */
	return 4 + 0x3c;
}

static size_t page_characteristics(uint8_t *page)
{
	put16(page + 2, 0x3c);
	put16(page + 4, 1); /* does not rotate */
	return 4 + 0x3c;
}

static size_t page_provisioning(const struct obd_scsi *scsi, uint8_t *page)
{
	enum {
		UNMAP_WORKS = 0x80,
		WRITE_SAME_16_WORKS = 0x40,
		WRITE_SAME_10_WORKS = 0x20,
		READS_ZEROS = 0x04,
		THIN = 2
	};

	put16(page + 2, 4);
	if (scsi->discard) {
		page[5] = UNMAP_WORKS | WRITE_SAME_16_WORKS | WRITE_SAME_10_WORKS | READS_ZEROS;
		page[6] = THIN;
	}
	return 8;
}

static enum obd_scsi_verdict inquiry_page(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					  struct obd_scsi_answer *answer)
{
	static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
	uint8_t page[1024] = {0, command->cdb[2]};
	size_t count;

	switch (command->cdb[2]) {
	case 0x00:
		put16(page + 2, sizeof(pages));
		memcpy(page + 4, pages, sizeof(pages));
		count = 4 + sizeof(pages);
		break;
	case 0x80:
		count = page_serial(scsi, page);
		break;
	case 0x83:
		count = page_identification(scsi, page);
		break;
	case 0xb0:
		count = page_block_limits(scsi, page);
		break;
	case 0xb1:
		count = page_characteristics(page);
		break;
	case 0xb2:
		count = page_provisioning(scsi, page);
		break;
	default:
		return reject(answer, INVALID_FIELD_IN_CDB);
	}
	return give(command, answer, page, count, get16(command->cdb + 3));
}

static enum obd_scsi_verdict inquiry(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
				     struct obd_scsi_answer *answer)
{
	/* a disk of SPC-3 with a command queue, in the words that the kernel's own backstores and the original use */
	static const uint8_t standard[] = "\x00\x00\x05\x02\x1f\x08\x00\x02"
					  "LIO-ORG "
					  "TCMU device     "
					  "0002";

	if (command->cdb[1] & 1)
		return inquiry_page(scsi, command, answer);
	if (command->cdb[2])
		return reject(answer, INVALID_FIELD_IN_CDB);
	return give(command, answer, standard, sizeof(standard) - 1, get16(command->cdb + 3));
}

/* ---- READ CAPACITY ---- */

static enum obd_scsi_verdict capacity_10(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					 struct obd_scsi_answer *answer)
{
	const uint64_t last = scsi->blocks - 1;
	uint8_t data[8];

	put32(data, last > UINT32_MAX ? UINT32_MAX : (uint32_t)last); /* too large: ask with the other one */
	put32(data + 4, scsi->block_size);
	return give(command, answer, data, sizeof(data), sizeof(data));
}

static enum obd_scsi_verdict capacity_16(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					 struct obd_scsi_answer *answer)
{
	uint8_t data[32] = {0};

	put64(data, scsi->blocks - 1);
	put32(data + 8, scsi->block_size);
	if (scsi->discard)
		data[14] = 0xc0; /* unmapped blocks are possible, and read as zeros */
	return give(command, answer, data, sizeof(data), get32(command->cdb + 10));
}

/* ---- modes ---- */

enum { MODE_PAGES = 12 + 20 + 12 };

/* Error recovery, caching, control. What is written is cached, by the page cache, wherever something can be written. */
static void fill_mode_pages(const struct obd_scsi *scsi, uint8_t *pages)
{
	enum { RECOVERY = 0, CACHING = 12, CONTROL = 32, WRITE_CACHE = 0x04 };

	memset(pages, 0, MODE_PAGES);
	pages[RECOVERY] = 0x01;
	pages[RECOVERY + 1] = 10;
	pages[CACHING] = 0x08;
	pages[CACHING + 1] = 18;
	if (!scsi->read_only)
		pages[CACHING + 2] = WRITE_CACHE;
	pages[CONTROL] = 0x0a;
	pages[CONTROL + 1] = 10;
	pages[CONTROL + 2] = 2;
	pages[CONTROL + 5] = 0x40;
	pages[CONTROL + 8] = pages[CONTROL + 9] = 0xff;
}

/* The page of that code within pages; NULL when there is none. */
static const uint8_t *find_mode_page(const uint8_t *pages, unsigned code)
{
	for (const uint8_t *page = pages; page < pages + MODE_PAGES; page += 2 + page[1])
		if (page[0] == code)
			return page;
	return NULL;
}

static enum obd_scsi_verdict mode_sense(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					struct obd_scsi_answer *answer)
{
	enum { ALL = 0x3f, CHANGEABLE = 1, SAVED = 3 };
	const bool ten = command->cdb[0] == MODE_SENSE_10;
	const unsigned code = command->cdb[2] & 0x3f, control = command->cdb[2] >> 6, subpage = command->cdb[3];
	const size_t head = ten ? 8 : 4, allocated = ten ? get16(command->cdb + 7) : command->cdb[4];
	uint8_t data[8 + MODE_PAGES] = {0}, pages[MODE_PAGES];
	const uint8_t *page;
	size_t count;

	fill_mode_pages(scsi, pages);
	page = code == ALL ? pages : find_mode_page(pages, code);
	if (control == SAVED)
		return reject(answer, SAVING_NOT_SUPPORTED);
	if (!page || (subpage && !(code == ALL && subpage == 0xff)))
		return reject(answer, INVALID_FIELD_IN_CDB);
	count = code == ALL ? MODE_PAGES : 2u + page[1];
	memcpy(data + head, page, count);
	if (control == CHANGEABLE) /* nothing is */
		for (uint8_t *at = data + head; at < data + head + count; at += 2 + at[1])
			memset(at + 2, 0, at[1]);
	count += head;
	if (ten) {
		put16(data, (uint32_t)count - 2);
		data[3] = scsi->read_only ? 0x80 : 0;
	} else {
		data[0] = (uint8_t)(count - 1);
		data[2] = scsi->read_only ? 0x80 : 0;
	}
	return give(command, answer, data, count, allocated);
}

static size_t take(const struct obd_scsi_command *command, uint8_t *data, size_t count)
{
	size_t taken = 0;

	for (unsigned i = 0; i < command->iov_count && taken < count; i++) {
		size_t part = command->iov[i].iov_len;

		if (part > count - taken)
			part = count - taken;
		memcpy(data + taken, command->iov[i].iov_base, part);
		taken += part;
	}
	return taken;
}

/* Accepted as long as it changes nothing: modes are what they are. */
static enum obd_scsi_verdict mode_select(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					 struct obd_scsi_answer *answer)
{
	const bool ten = command->cdb[0] == MODE_SELECT_10;
	const size_t head = ten ? 8 : 4, count = ten ? get16(command->cdb + 7) : command->cdb[4];
	uint8_t data[8 + MODE_PAGES], pages[MODE_PAGES];
	size_t at = head;

	if (!(command->cdb[1] & 0x10) || command->cdb[1] & 0x01) /* pages of the standard's format; nothing saved */
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (!count)
		return good(answer);
	if (count > sizeof(data))
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (count < head || take(command, data, count) < count)
		return reject(answer, PARAMETER_LIST_LENGTH);
	if (ten ? get16(data + 6) : data[3]) /* block descriptors: the block size is what it is */
		return reject(answer, INVALID_FIELD_IN_PARAMETERS);
	fill_mode_pages(scsi, pages);
	while (at < count) {
		const uint8_t *page = find_mode_page(pages, data[at] & 0x7f);

		if (!page)
			return reject(answer, INVALID_FIELD_IN_CDB);
		if (count - at < 2u + page[1])
			return reject(answer, PARAMETER_LIST_LENGTH);
		if (memcmp(data + at + 1, page + 1, 1u + page[1]) != 0)
			return reject(answer, INVALID_FIELD_IN_PARAMETERS);
		at += 2u + page[1];
	}
	return good(answer);
}

static enum obd_scsi_verdict report_opcodes(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					    struct obd_scsi_answer *answer)
{
	uint8_t data[OBD_SCSI_OPCODES_MAX];
	size_t count = obd_scsi_report_opcodes(command->cdb, !scsi->read_only, data);

	return count ? give(command, answer, data, count, get32(command->cdb + 6))
		     : reject(answer, INVALID_FIELD_IN_CDB);
}

/* ---- reads ---- */

static enum obd_scsi_verdict read_blocks(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					 uint64_t first, uint64_t blocks, struct obd_scsi_answer *answer,
					 uint64_t *offset, uint64_t *count)
{
	if (command->cdb[0] != READ_6 && command->cdb[1] >> 5) /* protection information */
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (first > scsi->blocks || blocks > scsi->blocks - first)
		return reject(answer, OUT_OF_RANGE);
	*offset = first * scsi->block_size;
	*count = blocks * scsi->block_size;
	if (*count > command->data_count)
		*count = command->data_count;
	if (!*count)
		return good(answer);
	answer->read_count = (uint32_t)*count;
	return OBD_SCSI_READ;
}

/* ---- changes ---- */

static enum obd_scsi_verdict write_blocks(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					  uint64_t first, uint64_t blocks, struct obd_scsi_answer *answer,
					  uint64_t *offset, uint64_t *count)
{
	enum { FORCE_UNIT_ACCESS = 0x08 };

	if (scsi->read_only)
		return reject(answer, WRITE_PROTECTED);
	/* protection information; or what MODE SENSE does not offer: whoever wants it flushes */
	if (command->cdb[0] != WRITE_6 && (command->cdb[1] >> 5 || command->cdb[1] & FORCE_UNIT_ACCESS))
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (first > scsi->blocks || blocks > scsi->blocks - first)
		return reject(answer, OUT_OF_RANGE);
	*offset = first * scsi->block_size;
	*count = blocks * scsi->block_size;
	if (*count > command->data_count)
		return reject(answer, INVALID_FIELD_IN_CDB);
	return *count ? OBD_SCSI_WRITE : good(answer);
}

static bool is_zero(const uint8_t *data, size_t count)
{
	return !data[0] && !memcmp(data, data + 1, count - 1);
}

/* With the UNMAP bit, without data, or with a block of zeros it is a discard: that reads as zeros. */
static enum obd_scsi_verdict write_same(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
					uint64_t first, uint64_t blocks, struct obd_scsi_answer *answer,
					uint64_t *offset, uint64_t *count)
{
	enum { UNMAP_BIT = 0x08, NO_DATA = 0x01, ANCHOR = 0x10 };
	const uint8_t flags = command->cdb[1];
	const bool none = command->cdb[0] == WRITE_SAME_16 && flags & NO_DATA;

	if (scsi->read_only)
		return reject(answer, WRITE_PROTECTED);
	if (flags >> 5 || flags & ANCHOR || !blocks || (flags & UNMAP_BIT && !scsi->discard))
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (first > scsi->blocks || blocks > scsi->blocks - first)
		return reject(answer, OUT_OF_RANGE);
	*offset = first * scsi->block_size;
	*count = blocks * scsi->block_size;
	if (none)
		return OBD_SCSI_DISCARD;
	if (!command->iov_count || command->iov[0].iov_len < scsi->block_size)
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (is_zero(command->iov[0].iov_base, scsi->block_size))
		return OBD_SCSI_DISCARD;
	if (flags & UNMAP_BIT || blocks > REPEAT_MAX)
		return reject(answer, INVALID_FIELD_IN_CDB);
	return OBD_SCSI_REPEAT;
}

static enum obd_scsi_verdict unmap(const struct obd_scsi *scsi, const struct obd_scsi_command *command,
				   struct obd_scsi_answer *answer, uint64_t *offset, uint64_t *count)
{
	enum { HEAD = 8, DESCRIPTOR = 16, ANCHOR = 0x01 };
	const size_t length = get16(command->cdb + 7);
	uint8_t data[HEAD + DESCRIPTOR];
	uint64_t first;

	if (scsi->read_only)
		return reject(answer, WRITE_PROTECTED);
	if (!scsi->discard || command->cdb[1] & ANCHOR)
		return reject(answer, INVALID_FIELD_IN_CDB);
	if (!length)
		return good(answer);
	if (length < HEAD || take(command, data, sizeof(data)) < (length < sizeof(data) ? length : sizeof(data)))
		return reject(answer, PARAMETER_LIST_LENGTH);
	if (get16(data + 2) < DESCRIPTOR)
		return good(answer);
	if (get16(data + 2) >= 2 * DESCRIPTOR)
		return reject(answer, INVALID_FIELD_IN_PARAMETERS);
	if (length < sizeof(data))
		return reject(answer, PARAMETER_LIST_LENGTH);
	first = get64(data + HEAD);
	*count = (uint64_t)get32(data + HEAD + 8) * scsi->block_size;
	if (first > scsi->blocks || *count / scsi->block_size > scsi->blocks - first)
		return reject(answer, OUT_OF_RANGE);
	*offset = first * scsi->block_size;
	return *count ? OBD_SCSI_DISCARD : good(answer);
}

enum obd_scsi_verdict obd_scsi_execute(struct obd_scsi *scsi, const struct obd_scsi_command *command,
				       struct obd_scsi_answer *answer, uint64_t *offset, uint64_t *count)
{
	const uint8_t *cdb = command->cdb;

	memset(answer, 0, sizeof(*answer));
	if (scsi->capacity_changed && cdb[0] != INQUIRY) {
		scsi->capacity_changed = false;
		return reject(answer, CAPACITY_CHANGED);
	}
	switch (cdb[0]) {
	case READ_6:
		return read_blocks(scsi, command, get32(cdb) & 0x1fffff, cdb[4] ? cdb[4] : 256, answer, offset, count);
	case READ_10:
		return read_blocks(scsi, command, get32(cdb + 2), get16(cdb + 7), answer, offset, count);
	case READ_12:
		return read_blocks(scsi, command, get32(cdb + 2), get32(cdb + 6), answer, offset, count);
	case READ_16:
		return read_blocks(scsi, command, get64(cdb + 2), get32(cdb + 10), answer, offset, count);
	case WRITE_6:
		return write_blocks(scsi, command, get32(cdb) & 0x1fffff, cdb[4] ? cdb[4] : 256, answer, offset, count);
	case WRITE_10:
		return write_blocks(scsi, command, get32(cdb + 2), get16(cdb + 7), answer, offset, count);
	case WRITE_12:
		return write_blocks(scsi, command, get32(cdb + 2), get32(cdb + 6), answer, offset, count);
	case WRITE_16:
		return write_blocks(scsi, command, get64(cdb + 2), get32(cdb + 10), answer, offset, count);
	case WRITE_SAME_10:
		return write_same(scsi, command, get32(cdb + 2), get16(cdb + 7), answer, offset, count);
	case WRITE_SAME_16:
		return write_same(scsi, command, get64(cdb + 2), get32(cdb + 10), answer, offset, count);
	case UNMAP:
		return unmap(scsi, command, answer, offset, count);
	case SYNCHRONIZE_CACHE_10:
	case SYNCHRONIZE_CACHE_16:
		return scsi->read_only ? good(answer) : OBD_SCSI_FLUSH; /* nothing there is ever unwritten */
	case TEST_UNIT_READY:
		return good(answer);
	case INQUIRY:
		return inquiry(scsi, command, answer);
	case MODE_SENSE_6:
	case MODE_SENSE_10:
		return mode_sense(scsi, command, answer);
	case MODE_SELECT_6:
	case MODE_SELECT_10:
		return mode_select(scsi, command, answer);
	case READ_CAPACITY_10:
		return capacity_10(scsi, command, answer);
	case SERVICE_ACTION_IN_16:
		if ((cdb[1] & 0x1f) == READ_CAPACITY_16)
			return capacity_16(scsi, command, answer);
		return reject(answer, INVALID_OPCODE);
	case MAINTENANCE_IN:
		if ((cdb[1] & 0x1f) == REPORT_SUPPORTED_OPERATION_CODES)
			return report_opcodes(scsi, command, answer);
		return reject(answer, INVALID_OPCODE);
	case WRITE_VERIFY_10:
	case WRITE_VERIFY_12:
	case WRITE_VERIFY_16:
		return reject(answer, scsi->read_only ? WRITE_PROTECTED : INVALID_OPCODE);
	default:
		return reject(answer, INVALID_OPCODE);
	}
}
