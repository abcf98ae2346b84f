/* SPDX-License-Identifier: Apache-2.0 */
#include "lsmt_record.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "index.h"
#include "little_endian.h"

enum { USED = 390 };

static const uint8_t magic[24] = {'L',	'S',  'M',  'T',  0,	1,    2,    0,	  0x65, 0x7E, 0x63, 0xD2,
				  0x94, 0x44, 0x08, 0x4C, 0xA2, 0xD2, 0xC8, 0xEC, 0x4F, 0xCF, 0xAE, 0x8A};

bool obd_lsmt_has_magic(const uint8_t *record)
{
	return !memcmp(record, magic, sizeof(magic));
}

static void fill_uuid(uint8_t *to, const char *text)
{
	static const char null[] = "00000000-0000-0000-0000-000000000000";

	if (!text || strlen(text) != OBD_UUID_LENGTH)
		text = null;
	for (size_t i = 0; i < OBD_UUID_LENGTH; i++)
		to[i] = (uint8_t)toupper((unsigned char)text[i]);
}

void obd_lsmt_record_fill(uint8_t *to, const struct obd_lsmt_record *record)
{
	memset(to, 0, OBD_LSMT_RECORD);
	memcpy(to, magic, sizeof(magic));
	obd_put_le32(to, 24, USED);
	obd_put_le32(to, 28, record->flags);
	obd_put_le64(to, 32, record->index_offset);
	obd_put_le64(to, 40, record->index_size);
	obd_put_le64(to, 48, record->virtual_size);
	fill_uuid(to + 56, record->uuid);
	fill_uuid(to + 93, record->parent_uuid);
	to[132] = to[133] = 1;
	if (record->message_count)
		memcpy(to + 134, record->message, record->message_count);
}

const char *obd_lsmt_size_fault(uint64_t virtual_size)
{
	if (virtual_size % OBD_SECTOR)
		return "is not a multiple of 512";
	if (virtual_size / OBD_SECTOR > OBD_LSMT_SECTORS_MAX)
		return "is more than an index can address";
	return NULL;
}

void obd_lsmt_entry_fill(uint8_t *to, uint64_t sector, uint64_t length, uint64_t map)
{
	obd_put_le64(to, 0, sector | length << 50);
	obd_put_le64(to, 8, map & (OBD_MSECTOR_MASK | OBD_ZEROED));
}

const char *obd_lsmt_entry_fault(uint64_t sector, uint64_t length, uint64_t place, bool zeroed, uint64_t data_end)
{
	if (sector + length > OBD_LSMT_SECTORS_MAX)
		return "ends beyond sector 2^50";
	if (place < OBD_LSMT_DATA_SECTOR || place > data_end || (!zeroed && length > data_end - place))
		return "is mapped outside the layer's data";
	return NULL;
}

/* A digit where a dash belongs passes, as it does upstream. */
void obd_uuid_parse(const uint8_t *text, char *ret)
{
	bool any = false;

	for (size_t i = 0; i < OBD_UUID_LENGTH; i++) {
		bool dash = text[i] == '-' && (i == 8 || i == 13 || i == 18 || i == 23);

		if (!dash && !isxdigit(text[i]))
			return;
		any |= !dash && text[i] != '0';
	}
	if (any)
		memcpy(ret, text, OBD_UUID_LENGTH);
}

int obd_uuid_random(char *ret)
{
	uint8_t id[16];

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return -errno;
	id[6] = (uint8_t)((id[6] & 0x0f) | 0x40);
	id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
	for (size_t i = 0, at = 0; i < sizeof(id); i++) {
		at += (size_t)sprintf(ret + at, "%02X", id[i]);
		if (i == 3 || i == 5 || i == 7 || i == 9)
			ret[at++] = '-';
	}
	ret[OBD_UUID_LENGTH] = 0;
	return 0;
}
